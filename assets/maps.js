// The heat maps of the attention tab: drawn from what viz.attention.attention_message says.
//
// They are drawn here and not as Dash's graphs: Dash would draw every map twice, and all of them
// anew whenever one is added. The server keeps the weights; this keeps what it was sent of them.

(function () {
  "use strict";

  // Going back is done here: Plotly would go back to the ranges that a card was first drawn with.
  const CONFIG = { displayModeBar: false, displaylogo: false, doubleClick: false, showTips: false };
  const HEAD = /^([a-z_]+:)?\d+\.\d+$/; // a map of one head goes by its notation
  const LONG_MS = 150; // so long the page may draw maps without a look at what is clicked

  // --- cells: values in rows, each the largest of step x step weights ---

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
  let drawn = { serial: null, names: [], sides: {}, marked: null };

  // What the positions of a side are called: those of the prompt, or another's.
  function namesOf(side) {
    return window.attention.ofSide(drawn, side).names;
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

  const EXPORTS = { png: "PNG", svg: "SVG", csv: "CSV", json: "JSON" };

  // A small menu that writes this map, or the head's weights, to a file.
  function menu(head, name) {
    const element = document.createElement("div");
    element.className = "map-menu";
    const opener = document.createElement("button");
    opener.type = "button";
    opener.textContent = "⤓";
    opener.title = "Export " + name;
    opener.setAttribute("aria-label", opener.title);
    opener.setAttribute("aria-expanded", "false");
    const list = document.createElement("div");
    list.setAttribute("role", "menu");
    list.hidden = true;
    const open = (wanted) => {
      list.hidden = !wanted;
      opener.setAttribute("aria-expanded", String(wanted));
    };
    for (const [kind, word] of Object.entries(EXPORTS)) {
      const item = document.createElement("button");
      item.type = "button";
      item.setAttribute("role", "menuitem");
      item.textContent = word;
      item.addEventListener("click", () => {
        open(false);
        window.dash_clientside.set_props("export-map", { data: { head, kind, at: Date.now() } });
      });
      list.append(item);
    }
    opener.addEventListener("click", () => open(list.hidden));
    element.addEventListener("mouseleave", () => open(false));
    element.addEventListener("keydown", (event) => event.key === "Escape" && open(false));
    element.append(opener, list);
    return element;
  }

  // The maps as they stand, or one of them, as SVG.
  async function svg(head) {
    const style = window.getComputedStyle(document.body);
    const wanted = [...cards.values()].filter((card) => card.figure && (!head || card.head === head));
    const parts = await window.attention.exports.figures(wanted.map((card) => card.plot));
    const across = document.getElementById("attention-grid").clientWidth + 30;
    const page = style.getPropertyValue("--av-page").trim();
    return head ? parts[0] : window.attention.exports.together(parts, across, page);
  }

  function newCard(head, name, isHead) {
    const plot = document.createElement("div");
    const picture = document.createElement("div");
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", (isHead ? "Attention of head " : "Attention: ") + name);
    picture.append(plot);
    const element = document.createElement("div");
    element.className = "map-card";
    const dropper = HEAD.test(head) ? [button(head, name)] : [];
    element.append(picture, ...(isHead ? [menu(head, name)] : []), ...dropper);
    const drawing = { figure: null, whole: null, finer: null, wanted: null };
    return { head, element, plot, ...drawing, marks: [], led: 0 };
  }

  function draw(card, { figure, cells }) {
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
    card.whole = cells;
    const { width, height, margin } = layout;
    const pixels = Math.max(width - margin.l - margin.r, height - margin.t - margin.b);
    const region = whole(card);
    const { trace, title } = shown(card, region, card.whole, fittingStep(region, pixels));
    Object.assign(data[0], trace);
    layout.title.text = title;
    card.marks = layout.shapes || [];
    layout.shapes = [...card.marks, ...selection(card)];
    window.Plotly.react(card.plot, data, layout, CONFIG);
    if (first) {
      card.plot.on("plotly_click", (event) => openCell(card, event));
      card.plot.on("plotly_relayout", (change) => {
        if (isZoom(change)) {
          lead(card);
          look(card);
        }
      });
      card.plot.on("plotly_doubleclick", () => showWhole(card));
    }
  }

  // A click selects the query's token, with Shift the key's, and asks why the head looks there; of a
  // cell that stands for several weights, it asks about the largest. A map of several heads, or one of
  // an encoder-decoder, says what token it is of; where no prediction is read, it does not.
  function openCell(card, { event, points }) {
    const { x, y, data, pointNumber } = points[0];
    const byKey = Boolean(event && event.shiftKey);
    const direction = byKey ? "by" : "at";
    const at = Date.now();
    const explains = HEAD.test(card.head) && !Object.keys(drawn.sides).length;
    if (explains && data.dx > 1) {
      // The server knows which of the cell's weights is the largest, and selects that one's token.
      const [row, column] = pointNumber;
      const first = (centre, place) => Math.round(centre - (data.dx - 1) / 2) + place * data.dx;
      const [query, key] = [first(data.y0, row), first(data.x0, column)];
      const { head } = card;
      const asked = { head, query, key, step: data.dx, direction, at };
      window.dash_clientside.set_props("direction", { value: direction });
      window.dash_clientside.set_props("explain-open", { data: asked });
      return;
    }
    const [query, key] = [Math.round(Number(y)), Math.round(Number(x))];
    const position = byKey ? key : query;
    const side = card.figure.sides[byKey ? 1 : 0];
    host.select(position, direction, side);
    if (side === "prompt") {
      const asked = explains
        ? ["explain-open", { head: card.head, query, key, step: 1, at }]
        : ["token-open", { position, at }];
      window.dash_clientside.set_props(asked[0], { data: asked[1] });
    }
  }

  // --- the selected token ---

  let host = null;
  let chosen = { token: null, direction: "at", side: "prompt" };

  // A frame around the row of the selected token, where it looks, or around its column.
  function selection({ figure }) {
    const { token, direction, side } = chosen;
    const [nQueries, nKeys] = figure.sides.map((one) => namesOf(one).length);
    const isRow = direction === "at";
    const isHere = figure.sides[isRow ? 0 : 1] === side && token < (isRow ? nQueries : nKeys);
    if (token === null || !isHere) {
      return [];
    }
    const along = [token - 0.5, token + 0.5];
    const row = [-0.5, figure.causal ? token + 0.5 : nKeys - 0.5];
    const column = [figure.causal ? token - 0.5 : -0.5, nQueries - 0.5];
    const [[x0, x1], [y0, y1]] = isRow ? [row, along] : [along, column];
    const color = window.getComputedStyle(document.body).getPropertyValue("--av-accent").trim();
    return [{ type: "rect", x0, x1, y0, y1, line: { color, width: 2 } }];
  }

  function select(now) {
    chosen = now;
    for (const card of cards.values()) {
      if (card.figure) {
        const shapes = [...card.marks, ...selection(card)];
        if (JSON.stringify(shapes) !== JSON.stringify(card.plot.layout.shapes)) {
          window.Plotly.relayout(card.plot, { shapes });
        }
      }
    }
  }

  // --- zooming ---

  let linked = false;

  function isZoom(change) {
    return Object.keys(change).some((name) => /^[xy]axis\./.test(name));
  }

  // Zoom all other maps of the same positions to what this one was zoomed to, if they are linked.
  // What Plotly says of a map while it is led is no zoom of its own; it may also say nothing.
  function lead(card) {
    if (card.led || !linked) {
      return;
    }
    const { xaxis, yaxis } = card.plot._fullLayout;
    const ranges = { "xaxis.range": [...xaxis.range], "yaxis.range": [...yaxis.range] };
    const sides = card.figure.sides.join();
    for (const other of cards.values()) {
      if (other !== card && other.figure && other.figure.sides.join() === sides) {
        other.led++;
        window.Plotly.relayout(other.plot, ranges).finally(() => other.led--);
      }
    }
  }

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
  function look(card) {
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
      ask(card.head, { query, query_end: queryEnd, key, key_end: keyEnd });
    } else {
      card.wanted = null;
    }
    show(card, region, known, step);
  }

  let asking = null; // what is asked for at the end of this turn, for all maps zoomed alike

  function ask(head, region) {
    if (asking === null) {
      asking = { heads: [], region, serial: drawn.serial, at: Date.now() };
      window.setTimeout(() => {
        const data = asking;
        asking = null;
        window.dash_clientside.set_props("zoom-request", { data });
      }, 0);
    }
    asking.region = region;
    asking.heads.push(head);
  }

  function show(card, region, cells, step) {
    const { trace, title } = shown(card, region, cells, step);
    const changed = { ...trace, z: [trace.z], customdata: [trace.customdata] };
    window.Plotly.update(card.plot, changed, { "title.text": title }, [0]);
  }

  // Draw the maps that are `changed`, put all in order, and take away those of other heads.
  async function update(known, changed) {
    await plotly();
    const { serial, names, marked } = known;
    drawn = { serial, names, sides: known.sides, marked };
    const mine = drawn;
    const grid = document.getElementById("attention-grid");
    const order = [...known.order, ...known.extra];
    for (const [head, card] of cards) {
      if (!order.includes(head)) {
        window.Plotly.purge(card.plot);
        card.element.remove();
        cards.delete(head);
      }
    }
    order.forEach((head, i) => {
      if (!cards.has(head)) {
        const isHead = known.order.includes(head);
        cards.set(head, newCard(head, known.maps[head].name, isHead));
      }
      const { element } = cards.get(head);
      if (grid.children[i] !== element) {
        grid.insertBefore(element, grid.children[i] || null);
      }
    });
    // First those that were not there: they are what is waited for. The page breathes before those
    // that stood, and wherever it has been drawing for long.
    const isNew = (head) => !cards.get(head).figure;
    const news = order.filter((head) => changed.has(head) && isNew(head));
    const standing = order.filter((head) => changed.has(head) && !isNew(head));
    let since = window.performance.now();
    for (const head of [...news, ...standing]) {
      const card = cards.get(head);
      const mayWait = news.length > 0 && standing.includes(head);
      if (mayWait || window.performance.now() - since > LONG_MS) {
        await painted();
        since = window.performance.now();
      }
      const outdated = drawn !== mine && drawn.serial !== mine.serial;
      if (cards.get(head) === card && !outdated) {
        draw(card, known.maps[head]);
      }
    }
  }

  const maps = {
    link(checked) {
      linked = Boolean(checked);
    },

    // message: { heads, serial, region, figures: { head: figure } }: cells of a region that was
    // asked for. A map may have been zoomed elsewhere, or drawn anew, since.
    zoom(message) {
      if (!message || message.serial !== drawn.serial) {
        return;
      }
      for (const [head, figure] of Object.entries(message.figures)) {
        const card = cards.get(head);
        const cells = window.attention.weights.cells(figure.cells);
        if (card && card.wanted && covers(cells, card.wanted)) {
          card.finer = cells;
          const step = fittingStep(card.wanted, pixelsOf(card));
          show(card, card.wanted, cells, step);
        }
      }
    },

    dropHead(dropped, chosen) {
      return dropped ? chosen.filter((head) => head !== dropped.head) : window.dash_clientside.no_update;
    },
  };

  window.attention = Object.assign({ drawers: {} }, window.attention);
  window.attention.drawers.matrix = (place, given) => {
    host = given;
    return { update, select, svg };
  };
  window.dash_clientside = Object.assign({}, window.dash_clientside, { maps });
})();
