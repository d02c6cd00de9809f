// The heat maps of the attention tab: drawn from what viz.attention.attention_message says.
//
// They are drawn here and not as Dash's graphs: Dash would draw every map twice, and all of them
// anew whenever one is added. The server keeps the weights; this keeps what it was sent of them.

(function () {
  "use strict";

  const CONFIG = { displayModeBar: false, displaylogo: false, doubleClick: "reset" };

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

  // Little-endian, two bytes a number.
  function numbers(base64) {
    const text = window.atob(base64);
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

  // --- what is drawn ---

  // head -> its element and plot, the figure of the whole map, the one that is shown (of a region
  // where it is zoomed), and the region that was asked for last.
  const cards = new Map();
  let drawn = { serial: null, names: [], marked: null };

  function aliases(marked) {
    const names = {};
    drawn.names.forEach((name, i) => {
      names[i] = i === marked ? "<b>" + name + "</b>" : name;
    });
    return names;
  }

  // What the cells of a map stand for, in words, if they stand for several weights.
  function ranges(cells, z) {
    if (cells.step === 1) {
      return null;
    }
    const names = drawn.names;
    const range = (first) => {
      const last = Math.min(first + cells.step, names.length) - 1;
      return first + "–" + last + " <b>" + names[first] + " … " + names[last] + "</b>";
    };
    const keys = Array.from(z[0], (_, j) => range(cells.key + j * cells.step));
    return z.map((_, i) => {
      const query = range(cells.query + i * cells.step);
      return keys.map((key) => [query, key]);
    });
  }

  // In place, so that the page's store does not keep the codes too.
  function fill(message) {
    const trace = message.data[0];
    if (trace.z.codes !== undefined) {
      trace.z = decode(trace.z);
      trace.customdata = ranges(message.cells, trace.z);
    }
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
    return { head, element, plot, overview: null, shown: null, wanted: null };
  }

  function draw(card, message) {
    fill(message);
    const { layout, data } = message;
    const positions = drawn.names.map((_, i) => i);
    Object.assign(layout.xaxis, { categoryarray: positions, labelalias: aliases(null) });
    Object.assign(layout.yaxis, { categoryarray: positions, labelalias: aliases(drawn.marked) });
    const first = card.shown === null;
    card.overview = message;
    card.shown = message;
    window.Plotly.react(card.plot, data, layout, CONFIG);
    if (first) {
      card.plot.on("plotly_click", openQuery);
      card.plot.on("plotly_relayout", () => look(card));
    }
  }

  function openQuery(event) {
    const position = Number(event.points[0].y);
    window.dash_clientside.set_props("token-open", { data: { position, at: Date.now() } });
  }

  // --- zooming into a map whose cells stand for several weights ---

  function visible(axis) {
    const [a, b] = [...axis.range].sort((one, other) => one - other);
    const n = drawn.names.length;
    const first = Math.min(Math.max(Math.round(a + 0.5), 0), n - 1);
    return [first, Math.min(Math.max(Math.round(b + 0.5), first + 1), n)];
  }

  function look(card) {
    if (card.overview.cells.step === 1) {
      return;
    }
    const { xaxis, yaxis } = card.plot._fullLayout;
    const [query, queryEnd] = visible(yaxis);
    const [key, keyEnd] = visible(xaxis);
    const n = drawn.names.length;
    card.wanted = [query, queryEnd, key, keyEnd].join();
    if (queryEnd - query === n && keyEnd - key === n) {
      show(card, card.overview);
      return;
    }
    const region = { query, query_end: queryEnd, key, key_end: keyEnd };
    window.dash_clientside.set_props("zoom-request", {
      data: { head: card.head, region, serial: drawn.serial, at: Date.now() },
    });
  }

  // Put other cells of the same map in place, where it is zoomed to.
  function show(card, message) {
    if (card.shown === message) {
      return;
    }
    card.shown = message;
    const { z, x0, dx, y0, dy, customdata, hovertemplate } = message.data[0];
    const cells = { z: [z], x0, dx, y0, dy, customdata: [customdata], hovertemplate };
    window.Plotly.update(card.plot, cells, { "title.text": message.layout.title.text }, [0]);
  }

  const maps = {
    // message: { serial, order: heads, names, marked, maps: { head: { name, figure } } }. Heads
    // without a figure stand already and stay as they are.
    async draw(message) {
      if (!message) {
        return window.dash_clientside.no_update;
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
        if (card.shown) {
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
        if (drawn !== message) {
          break;
        }
        draw(card, figure);
      }
      return window.dash_clientside.no_update;
    },

    // message: { head, serial, region, figure }: cells of a region that was asked for.
    zoom(message) {
      const card = message && cards.get(message.head);
      const region = message && message.region;
      const asked = region && [region.query, region.query_end, region.key, region.key_end].join();
      // It may have been zoomed elsewhere, or drawn anew, since it was asked for.
      if (card && message.serial === drawn.serial && asked === card.wanted) {
        fill(message.figure);
        show(card, message.figure);
      }
      return window.dash_clientside.no_update;
    },

    dropHead(dropped, chosen) {
      return dropped ? chosen.filter((head) => head !== dropped.head) : window.dash_clientside.no_update;
    },
  };

  window.dash_clientside = Object.assign({}, window.dash_clientside, { maps });
})();
