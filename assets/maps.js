// The heat maps of the attention tab: drawn from what viz.attention.attention_message says.
//
// They are drawn here and not as Dash's graphs: Dash would draw every map twice, and all of them
// anew whenever one is added. The server keeps the weights; this keeps what it was sent of them.

(function () {
  "use strict";

  // Going back is done here: Plotly would go back to the ranges that a card was first drawn with.
  const CONFIG = { displayModeBar: false, displaylogo: false, doubleClick: false, showTips: false };

  // --- codes: see viz/coding.py ---

  const FIRST = 2;
  const LAST = 65535;
  const FLOOR = 1e-12;
  let weights = null;

  function weightOf() {
    if (!weights) {
      weights = new Float32Array(LAST + 1);
      weights[0] = NaN;
      for (let code = FIRST; code <= LAST; code++) {
        weights[code] = Math.pow(FLOOR, 1 - (code - FIRST) / (LAST - FIRST));
      }
    }
    return weights;
  }

  // URL-safe base64 of little-endian numbers of two bytes.
  function numbers(base64) {
    const text = window.atob(base64.replace(/-/g, "+").replace(/_/g, "/"));
    const found = new Uint16Array(text.length / 2);
    for (let i = 0; i < found.length; i++) {
      found[i] = text.charCodeAt(2 * i) | (text.charCodeAt(2 * i + 1) << 8);
    }
    return found;
  }

  function decode(coded) {
    const weight = weightOf();
    const codes = numbers(coded.codes);
    let next = 0;
    return Array.from(numbers(coded.lengths), (length) => {
      const row = new Float32Array(coded.columns).fill(NaN);
      for (let column = 0; column < length; column++) {
        row[column] = weight[codes[next++]];
      }
      return row;
    });
  }

  // --- cells: values in rows, each the largest of step x step weights ---

  function cellsOf(figure) {
    const { query, key, step, coded } = figure.cells;
    figure.cells.coded = null; // so that the page's store does not keep the codes too
    return { query, key, step, values: decode(coded) };
  }

  // The cells of a region, so many of them taken together, by their largest.
  function coarser(cells, region, together) {
    const { step, values } = cells;
    const from = (position, first) => Math.floor((position - first) / (step * together)) * together;
    const firstRow = from(region.query, cells.query);
    const firstColumn = from(region.key, cells.key);
    const endRow = Math.min(Math.ceil((region.queryEnd - cells.query) / step), values.length);
    const endColumn = Math.min(Math.ceil((region.keyEnd - cells.key) / step), values[0].length);
    const width = Math.ceil((endColumn - firstColumn) / together);
    const rows = [];
    for (let row = firstRow; row < endRow; row += together) {
      const largest = new Float32Array(width).fill(NaN);
      for (let i = row; i < Math.min(row + together, endRow); i++) {
        for (let column = firstColumn; column < endColumn; column++) {
          const value = values[i][column];
          const place = Math.floor((column - firstColumn) / together);
          if (value > largest[place] || (largest[place] !== largest[place] && value === value)) {
            largest[place] = value;
          }
        }
      }
      rows.push(largest);
    }
    return {
      query: cells.query + firstRow * step,
      key: cells.key + firstColumn * step,
      step: step * together,
      values: rows,
    };
  }

  function covers(cells, region) {
    return (
      cells.query <= region.query &&
      cells.key <= region.key &&
      cells.query + cells.step * cells.values.length >= region.queryEnd &&
      cells.key + cells.step * cells.values[0].length >= region.keyEnd
    );
  }

  // --- what is drawn ---

  // head -> card: its element and plot; what the server says of it; the cells of the whole map and,
  // if a region was asked for, finer ones of that; the region that was asked for last.
  const cards = new Map();
  let drawn = { serial: null, names: [], source: null, marked: null };

  // What the positions of a side are called: those of the prompt, or of an encoder's source.
  function namesOf(side) {
    return side === "source" ? drawn.source : drawn.names;
  }

  function queries(card) {
    return namesOf(card.figure.sides[0]);
  }

  function keys(card) {
    return namesOf(card.figure.sides[1]);
  }

  function aliases(side, marked) {
    const names = {};
    namesOf(side).forEach((name, i) => {
      names[i] = i === marked && side === "prompt" ? "<b>" + name + "</b>" : name;
    });
    return names;
  }

  // What each cell stands for, in words: alike for maps that show the same region.
  let ranges = { of: null, words: null };

  function rangesOf(card, cells) {
    const rows = cells.values.length;
    const columns = cells.values[0].length;
    const { sides } = card.figure;
    const of = [drawn.serial, ...sides, cells.query, cells.key, cells.step, rows, columns].join();
    if (of !== ranges.of) {
      const range = (names, first, i) => {
        const from = first + i * cells.step;
        const to = Math.min(from + cells.step, names.length) - 1;
        return from + "–" + to + " <b>" + names[from] + " … " + names[to] + "</b>";
      };
      const across = Array.from({ length: columns }, (_, j) => range(keys(card), cells.key, j));
      const words = Array.from({ length: rows }, (_, i) => {
        const query = range(queries(card), cells.query, i);
        return across.map((key) => [query, key]);
      });
      ranges = { of, words };
    }
    return ranges.words;
  }

  function whole(card) {
    return { query: 0, queryEnd: queries(card).length, key: 0, keyEnd: keys(card).length };
  }

  function isWhole(card, region) {
    return JSON.stringify(region) === JSON.stringify(whole(card));
  }

  // How many weights share a dot, so that none of them is smaller than a pixel.
  function fittingStep(region, pixels) {
    const side = Math.max(region.queryEnd - region.query, region.keyEnd - region.key);
    return Math.max(1, Math.ceil(side / Math.max(1, Math.floor(pixels))));
  }

  // The trace and the title that show a region by some cells.
  function shown(card, region, cells, step) {
    const dots = coarser(cells, region, Math.max(1, Math.ceil(step / cells.step)));
    const centre = (dots.step - 1) / 2;
    const pooled = dots.step > 1;
    const size = dots.step + "×" + dots.step;
    const note = pooled ? " · each dot: max of " + size : isWhole(card, region) ? "" : " · every weight";
    return {
      trace: {
        z: dots.values,
        x0: dots.key + centre,
        dx: dots.step,
        y0: dots.query + centre,
        dy: dots.step,
        customdata: pooled ? rangesOf(card, dots) : null,
        hovertemplate: card.figure.hover[pooled ? 1 : 0],
      },
      title: card.title.replace("{note}", note),
    };
  }

  // Dash loads Plotly by itself once the page's first graph stands.
  function plotly() {
    const look = (resolve) =>
      window.Plotly ? resolve(window.Plotly) : window.requestAnimationFrame(() => look(resolve));
    return new Promise(look);
  }

  function painted() {
    return new Promise((resolve) =>
      window.requestAnimationFrame(() => window.setTimeout(resolve, 0))
    );
  }

  function button(head, name) {
    const element = document.createElement("button");
    element.type = "button";
    element.className = "drop-head";
    element.textContent = "×";
    element.title = "Take " + name + " out of the choice";
    element.setAttribute("aria-label", element.title);
    element.addEventListener("click", () => {
      window.dash_clientside.set_props("drop-head", { data: { head, at: Date.now() } });
    });
    return element;
  }

  function newCard(head, name) {
    const plot = document.createElement("div");
    const picture = document.createElement("div");
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", "Attention of head " + name);
    picture.append(plot);
    const element = document.createElement("div");
    element.className = "map-card";
    element.append(picture, button(head, name));
    return { head, element, plot, figure: null, whole: null, finer: null, wanted: null };
  }

  function draw(card, figure) {
    const first = card.figure === null;
    const { layout, data } = figure;
    const [down, across] = figure.sides;
    Object.assign(layout.xaxis, {
      categoryarray: namesOf(across).map((_, i) => i),
      labelalias: aliases(across, null),
    });
    Object.assign(layout.yaxis, {
      categoryarray: namesOf(down).map((_, i) => i),
      labelalias: aliases(down, drawn.marked),
    });
    Object.assign(card, { figure, finer: null, wanted: null, title: layout.title.text });
    card.whole = cellsOf(figure);
    const { width, height, margin } = layout;
    const pixels = Math.max(width - margin.l - margin.r, height - margin.t - margin.b);
    const region = whole(card);
    const { trace, title } = shown(card, region, card.whole, fittingStep(region, pixels));
    Object.assign(data[0], trace);
    layout.title.text = title;
    window.Plotly.react(card.plot, data, layout, CONFIG);
    if (first) {
      card.plot.on("plotly_click", (event) => openQuery(card, event));
      card.plot.on("plotly_relayout", (change) => look(card, change));
      card.plot.on("plotly_doubleclick", () => showWhole(card));
    }
  }

  function openQuery(card, event) {
    if (card.figure.sides[0] === "source") {
      return; // no prediction is read there
    }
    const position = Number(event.points[0].y);
    window.dash_clientside.set_props("token-open", { data: { position, at: Date.now() } });
  }

  // --- zooming ---

  function visible(axis, n) {
    const [a, b] = [...axis.range].sort((one, other) => one - other);
    const first = Math.min(Math.max(Math.round(a + 0.5), 0), n - 1);
    return [first, Math.min(Math.max(Math.round(b + 0.5), first + 1), n)];
  }

  function showWhole(card) {
    window.Plotly.relayout(card.plot, {
      "xaxis.range": [-0.5, keys(card).length - 0.5],
      "yaxis.range": [queries(card).length - 0.5, -0.5],
    });
  }

  // Of the longer side, where the sides are not the same positions.
  function pixelsOf(card) {
    const { xaxis, yaxis } = card.plot._fullLayout;
    const [down, across] = card.figure.sides;
    return down === across ? xaxis._length : Math.max(xaxis._length, yaxis._length);
  }

  // Draw what is zoomed to by the finest cells there are, and ask for finer ones if they would show.
  function look(card, change) {
    if (!Object.keys(change).some((name) => name.includes("axis"))) {
      return;
    }
    const { xaxis, yaxis } = card.plot._fullLayout;
    const pixels = pixelsOf(card);
    if (card.whole.step === 1 && fittingStep(whole(card), pixels) === 1) {
      return; // every weight is drawn already
    }
    const [query, queryEnd] = visible(yaxis, queries(card).length);
    const [key, keyEnd] = visible(xaxis, keys(card).length);
    const region = { query, queryEnd, key, keyEnd };
    const step = fittingStep(region, pixels);
    const known = [card.finer, card.whole].find((cells) => cells && covers(cells, region));
    if (known.step > step) {
      card.wanted = region;
      const asked = { query, query_end: queryEnd, key, key_end: keyEnd };
      window.dash_clientside.set_props("zoom-request", {
        data: { head: card.head, region: asked, serial: drawn.serial, at: Date.now() },
      });
    } else {
      card.wanted = null;
    }
    show(card, region, known, step);
  }

  function show(card, region, cells, step) {
    const { trace, title } = shown(card, region, cells, step);
    const changed = { ...trace, z: [trace.z], customdata: [trace.customdata] };
    window.Plotly.update(card.plot, changed, { "title.text": title }, [0]);
  }

  const maps = {
    // message: { serial, order: heads, names, source, marked, maps: { head: { name, figure } } }.
    // Heads without a figure stand already and stay as they are. `source` has the names of an
    // encoder's positions; a figure's `sides` say of which its queries and its keys are.
    async draw(message) {
      if (!message) {
        return;
      }
      await plotly();
      drawn = message;
      const grid = document.getElementById("attention-grid");
      for (const [head, card] of cards) {
        if (!message.order.includes(head)) {
          window.Plotly.purge(card.plot);
          card.element.remove();
          cards.delete(head);
        }
      }
      message.order.forEach((head, i) => {
        const sent = message.maps[head];
        if (sent && !cards.has(head)) {
          cards.set(head, newCard(head, sent.name));
        }
        const { element } = cards.get(head);
        if (grid.children[i] !== element) {
          grid.insertBefore(element, grid.children[i] || null);
        }
      });
      // First those that were not there: they are what is waited for.
      const standing = [];
      for (const [head, sent] of Object.entries(message.maps)) {
        const card = cards.get(head);
        if (card.figure) {
          standing.push([card, sent.figure]);
        } else {
          draw(card, sent.figure);
        }
      }
      const added = standing.length < message.order.length;
      for (const [card, figure] of standing) {
        if (added) {
          await painted();
        }
        const outdated = drawn !== message && card.head in drawn.maps;
        if (cards.get(card.head) === card && !outdated) {
          draw(card, figure);
        }
      }
    },

    // message: { head, serial, region, figure }: cells of a region that was asked for. It may have
    // been zoomed elsewhere, or drawn anew, since.
    zoom(message) {
      const card = message && cards.get(message.head);
      if (!card || message.serial !== drawn.serial || !card.wanted) {
        return;
      }
      const cells = cellsOf(message.figure);
      if (covers(cells, card.wanted)) {
        card.finer = cells;
        const step = fittingStep(card.wanted, pixelsOf(card));
        show(card, card.wanted, cells, step);
      }
    },

    dropHead(dropped, chosen) {
      return dropped ? chosen.filter((head) => head !== dropped.head) : window.dash_clientside.no_update;
    },
  };

  window.dash_clientside = Object.assign({}, window.dash_clientside, { maps });
})();
