// All heads at once, layers x heads, on one canvas: thumbnails of their attention, or one number a
// head as a colour. Drawn from what viz.overview.overview_message says.

(function () {
  "use strict";

  // --- the grid ---

  const GAP = 2; // px between tiles
  const ROW_LABEL = 26; // px
  const COLUMN_LABEL = 16; // px
  const BLOCK_GAP = 10; // px between stacks of layers
  const SMALLEST = 14; // px: rather scroll than have smaller tiles
  const LARGEST = 96; // px
  const BOTTOM = 14; // px that stay free under the grid
  const LABEL_ROOM = 11; // px
  const ENLARGED = 216; // px
  const SCALE = 84; // px, of the colours in a file

  // What is drawn: the message, the thumbnails in it, and what else the picture depends on.
  let drawn = { sent: null, thumbnails: null, chosen: [], cells: "thumbnail", own: false, log: false };
  let dark = false;
  let shown = false;
  let grid = null; // where the tiles stand
  let pointed = null; // { layer, head } of the head that is enlarged

  function frame() {
    return document.getElementById("overview-frame");
  }

  function tileOf({ layer, head }) {
    return layer * drawn.sent.n_heads + head;
  }

  function css(name) {
    return window.getComputedStyle(document.documentElement).getPropertyValue("--av-" + name);
  }

  function stops() {
    return window.attention.thumbnails.stops(drawn.sent, dark);
  }

  function largestOfAll() {
    return drawn.thumbnails.largest(0, drawn.sent.n_layers * drawn.sent.n_heads);
  }

  // The colours of the codes on a scale that ends at some weight.
  function tableTo(most) {
    return window.attention.thumbnails.table(drawn.sent, stops(), most, drawn.log);
  }

  // --- painting ---

  // So many stacks of layers side by side that the tiles are as large as they can be.
  function arranged(width, height) {
    const { n_layers, n_heads } = drawn.sent;
    let best = null;
    for (let stacks = 1; stacks <= n_layers; stacks++) {
      const rows = Math.ceil(n_layers / stacks);
      const across = (width - stacks * ROW_LABEL - (stacks - 1) * BLOCK_GAP) / (stacks * n_heads);
      const down = (height - COLUMN_LABEL) / rows;
      const tile = Math.floor(Math.min(across, Math.max(down, SMALLEST), LARGEST));
      if (best === null || tile > best.tile) {
        best = { stacks, rows, tile: Math.max(tile, 4) };
      }
    }
    const stack = ROW_LABEL + n_heads * best.tile + BLOCK_GAP;
    const size = { width: best.stacks * stack - BLOCK_GAP, height: best.rows * best.tile + COLUMN_LABEL };
    return { ...best, ...size, stack, dots: window.devicePixelRatio || 1 };
  }

  // The upper left corner of a head's tile; layer 0 stands at the bottom.
  function corner(layer, head) {
    const column = Math.floor(layer / grid.rows);
    return {
      x: column * grid.stack + ROW_LABEL + head * grid.tile,
      y: (grid.rows - 1 - (layer % grid.rows)) * grid.tile,
    };
  }

  function headAt(x, y) {
    const { n_layers, n_heads } = drawn.sent;
    const column = Math.floor(x / grid.stack);
    const head = Math.floor((x - column * grid.stack - ROW_LABEL) / grid.tile);
    const row = Math.floor(y / grid.tile);
    const layer = column * grid.rows + grid.rows - 1 - row;
    const inside = column >= 0 && head >= 0 && head < n_heads && row >= 0 && row < grid.rows;
    return inside && layer < n_layers ? { layer, head } : null;
  }

  function metric() {
    return drawn.sent.metrics.find(({ name }) => name === drawn.cells);
  }

  function largestValue({ values }) {
    return Math.max(0, ...values.flat().filter((value) => value !== null)) || 1;
  }

  function valueColour(colours, value, most) {
    const channels = window.attention.thumbnails.mixed(colours, value / most);
    return "rgb(" + channels.map(Math.round).join() + ")";
  }

  function paintTiles(context) {
    const { n_layers, n_heads } = drawn.sent;
    const number = metric();
    const colours = stops();
    const most = number && largestValue(number);
    const together = number || drawn.own ? null : tableTo(largestOfAll());
    const edge = grid.tile - GAP;
    const size = Math.max(1, Math.round(edge * grid.dots));
    for (let layer = 0; layer < n_layers; layer++) {
      for (let head = 0; head < n_heads; head++) {
        const { x, y } = corner(layer, head);
        const tile = tileOf({ layer, head });
        const value = number ? number.values[layer][head] : null;
        context.fillStyle = value === null ? css("empty") : valueColour(colours, value, most);
        context.fillRect(x, y, edge, edge);
        if (!number && drawn.thumbnails.wasRead(tile)) {
          const table = together || tableTo(drawn.thumbnails.largest(tile, 1));
          const image = drawn.thumbnails.image(context, tile, size, table);
          context.putImageData(image, Math.round(x * grid.dots), Math.round(y * grid.dots));
        }
      }
    }
  }

  // Calls `put` with { said, x, y, align } of each layer's and each head's name.
  function labels(put) {
    const { n_layers, n_heads } = drawn.sent;
    const every = Math.ceil(LABEL_ROOM / grid.tile);
    for (let layer = 0; layer < n_layers; layer += every) {
      const { x, y } = corner(layer, 0);
      put({ said: "L" + layer, x: x - 4, y: y + grid.tile / 2, align: "right" });
    }
    const across = Math.ceil((2 * LABEL_ROOM) / grid.tile);
    for (let layer = 0; layer < n_layers; layer += grid.rows) {
      for (let head = 0; head < n_heads; head += across) {
        const { x, y } = corner(layer, head);
        const middle = x + grid.tile / 2 - GAP / 2;
        put({ said: "H" + head, x: middle, y: y + grid.tile + COLUMN_LABEL / 2, align: "center" });
      }
    }
  }

  function paintLabels(context) {
    context.fillStyle = css("muted");
    context.font = "10px " + window.getComputedStyle(document.body).fontFamily;
    context.textBaseline = "middle";
    labels(({ said, x, y, align }) => {
      context.textAlign = align;
      context.fillText(said, x, y);
    });
  }

  function outline(context, { layer, head }, colour, width) {
    const { x, y } = corner(layer, head);
    const edge = grid.tile - GAP;
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.strokeRect(x - 0.5, y - 0.5, edge + 1, edge + 1);
  }

  // What stands before the notation of the heads; nothing for the main stack's.
  function prefix() {
    return drawn.sent.stack ? drawn.sent.stack + ":" : "";
  }

  // The chosen heads that are of the stack that is shown.
  function chosenHere() {
    const before = prefix();
    return drawn.chosen
      .filter((short) => short.slice(0, short.indexOf(":") + 1) === before)
      .map((short) => short.slice(before.length).split(".").map(Number))
      .map(([layer, head]) => ({ layer, head }));
  }

  // The grid without marks: hovering changes nothing of it.
  const ground = document.createElement("canvas");

  function sized(canvas) {
    canvas.width = Math.round(grid.width * grid.dots);
    canvas.height = Math.round(grid.height * grid.dots);
    const context = canvas.getContext("2d");
    context.scale(grid.dots, grid.dots);
    return context;
  }

  function paint() {
    const place = frame();
    if (!shown || !drawn.sent || !place || !place.clientWidth) {
      return;
    }
    const height = window.innerHeight - place.getBoundingClientRect().top - BOTTOM;
    grid = arranged(place.clientWidth, height);
    const context = sized(ground);
    paintTiles(context);
    paintLabels(context);
    paintMarks();
    paintLegend();
    showTools();
  }

  function paintMarks() {
    const canvas = canvasIn(frame());
    const context = sized(canvas);
    canvas.style.width = grid.width + "px";
    canvas.style.height = grid.height + "px";
    context.drawImage(ground, 0, 0, grid.width, grid.height);
    if (pointed) {
      outline(context, pointed, css("text"), 1);
    }
    const { n_layers, n_heads } = drawn.sent;
    for (const head of chosenHere()) {
      if (head.layer < n_layers && head.head < n_heads) {
        outline(context, head, css("surface"), 4);
        outline(context, head, css("accent"), 2);
      }
    }
  }

  // How the weights of thumbnails are coloured means nothing for numbers.
  function showTools() {
    const numbers = shown && drawn.sent !== null && metric() !== undefined;
    frame().closest(".tab-body").classList.toggle("numbers", numbers);
  }

  // What the colours' scale begins and ends with, in words.
  function scaleEnds() {
    const number = metric();
    const name = (value) => String(Number(value.toPrecision(2)));
    if (number) {
      return ["0", (name(largestValue(number)) + " " + number.unit).trim()];
    }
    const high = drawn.own ? "each head's largest" : name(largestOfAll());
    return [drawn.log ? "≤" + drawn.sent.floor : "0", high];
  }

  function paintLegend() {
    const [low, high] = scaleEnds();
    const bar = document.createElement("span");
    bar.className = "overview-scale";
    const colours = drawn.sent.colours[dark ? "dark" : "light"];
    bar.style.background = "linear-gradient(to right, " + colours.join() + ")";
    document.getElementById("overview-legend").replaceChildren(low, bar, high);
  }

  // --- the enlarged head ---

  let card = null;

  function element(kind, className, ...content) {
    const made = document.createElement(kind);
    made.className = className;
    made.append(...content);
    return made;
  }

  function cardIn(place) {
    if (!card) {
      const root = element("div", "overview-card");
      root.setAttribute("aria-live", "polite");
      card = {
        root,
        title: element("strong", ""),
        chosen: element("span", "overview-chosen"),
        picture: element("canvas", ""),
        numbers: element("dl", ""),
      };
      root.append(element("div", "row", card.title, card.chosen), card.picture, card.numbers);
      place.append(root);
    }
    return card;
  }

  function shortOf({ layer, head }) {
    return prefix() + layer + "." + head;
  }

  function enlarge(head) {
    const { root, title, chosen, picture, numbers } = cardIn(frame());
    title.textContent = prefix() + "L" + head.layer + "H" + head.head;
    chosen.textContent = drawn.chosen.includes(shortOf(head)) ? "chosen" : "";
    const size = Math.round(ENLARGED * grid.dots);
    picture.width = picture.height = size;
    picture.style.width = picture.style.height = ENLARGED + "px";
    const tile = tileOf(head);
    const table = tableTo(drawn.own ? drawn.thumbnails.largest(tile, 1) : largestOfAll());
    const context = picture.getContext("2d");
    context.putImageData(drawn.thumbnails.image(context, tile, size, table), 0, 0);
    numbers.replaceChildren(
      ...drawn.sent.metrics.flatMap(({ name, label, unit, values }) => {
        const value = values[head.layer][head.head];
        const said = value === null ? "–" : (Number(value.toPrecision(3)) + " " + unit).trim();
        const marked = name === drawn.cells ? "marked" : "";
        return [element("dt", marked, label), element("dd", marked, said)];
      })
    );
    root.hidden = false;
    stand(root, head);
  }

  // Beside the head's tile, within the window.
  function stand(root, head) {
    const from = canvasIn(frame()).getBoundingClientRect();
    const { x, y } = corner(head.layer, head.head);
    const right = from.left + x + grid.tile + 6;
    const left = from.left + x - root.offsetWidth - 8;
    const top = from.top + y + grid.tile / 2 - root.offsetHeight / 2;
    const fits = right + root.offsetWidth < window.innerWidth;
    root.style.left = (fits ? right : left) + "px";
    root.style.top = Math.min(Math.max(top, 8), window.innerHeight - root.offsetHeight - 8) + "px";
  }

  function point(head) {
    const same = head && pointed && shortOf(head) === shortOf(pointed);
    if (same || (!head && !pointed)) {
      return;
    }
    pointed = head;
    paintMarks();
    if (head) {
      enlarge(head);
    } else if (card) {
      card.root.hidden = true;
    }
  }

  function toggle(head) {
    const short = shortOf(head);
    const { chosen } = drawn;
    const value = chosen.includes(short)
      ? chosen.filter((other) => other !== short)
      : [...chosen, short];
    window.dash_clientside.set_props("heads", { value });
  }

  // --- what a person does ---

  const STEPS = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [1, 0], ArrowDown: [-1, 0] };

  function onKey(event) {
    const { n_layers, n_heads } = drawn.sent;
    const [up, right] = STEPS[event.key] || [0, 0];
    if (event.key in STEPS) {
      const from = pointed || { layer: -up, head: -right };
      const layer = Math.min(Math.max(from.layer + up, 0), n_layers - 1);
      point({ layer, head: Math.min(Math.max(from.head + right, 0), n_heads - 1) });
    } else if ((event.key === "Enter" || event.key === " ") && pointed) {
      toggle(pointed);
    } else if (event.key === "Escape") {
      point(null);
    } else {
      return;
    }
    event.preventDefault();
  }

  function canvasIn(place) {
    let canvas = place.querySelector("canvas.overview-grid");
    if (canvas) {
      return canvas;
    }
    canvas = element("canvas", "overview-grid");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application");
    canvas.setAttribute(
      "aria-label",
      "All heads, layers by heads; arrow keys go from head to head, Enter chooses one"
    );
    const under = (event) => headAt(event.offsetX, event.offsetY);
    canvas.addEventListener("mousemove", (event) => point(under(event)));
    canvas.addEventListener("mouseleave", () => point(null));
    canvas.addEventListener("blur", () => point(null));
    canvas.addEventListener("keydown", onKey);
    canvas.addEventListener("click", (event) => {
      const head = under(event);
      if (head) {
        toggle(head);
      }
    });
    place.append(canvas);
    new window.ResizeObserver(schedule).observe(place);
    window.addEventListener("resize", schedule);
    return canvas;
  }

  let scheduled = false;

  function schedule() {
    if (!scheduled) {
      scheduled = true;
      window.requestAnimationFrame(() => {
        scheduled = false;
        paint();
        if (pointed && grid) {
          enlarge(pointed);
        }
      });
    }
  }

  // Where there is no overview, none of anything else stands.
  function clear() {
    const canvas = frame() && frame().querySelector("canvas.overview-grid");
    if (drawn.sent && canvas) {
      point(null);
      canvas.width = canvas.height = 0;
      canvas.style.width = canvas.style.height = "0";
      document.getElementById("overview-legend").replaceChildren();
      drawn = { ...drawn, sent: null };
      showTools();
    }
  }

  // --- as a file ---

  // The grid as it stands, under it what is shown and its scale.
  function svg() {
    if (!drawn.sent || !grid) {
      return null;
    }
    const FOOT = 26; // px
    const MARGIN = 8; // px
    const pen = window.attention.svgPen(grid.width + 2 * MARGIN, grid.height + FOOT + 2 * MARGIN, css("surface").trim());
    const tiles = document.createElement("canvas");
    const context = sized(tiles);
    paintTiles(context);
    pen.picture(MARGIN, MARGIN, grid.width, grid.height, tiles.toDataURL());
    const text = { size: 10, bold: false, align: "left", colour: css("muted").trim() };
    labels(({ said, x, y, align }) => pen.text(x + MARGIN, y + MARGIN, said, { ...text, align }));
    const colour = css("accent").trim();
    for (const head of chosenHere()) {
      const { x, y } = corner(head.layer, head.head);
      const [left, top, end] = [x + MARGIN - 0.5, y + MARGIN - 0.5, grid.tile - GAP + 1];
      const [right, low] = [left + end, top + end];
      const edges = [left, top, right, top, right, top, right, low, right, low, left, low, left, low, left, top];
      pen.lines(edges, colour, 1, 2);
    }
    const number = metric();
    const middle = grid.height + MARGIN + FOOT / 2;
    const [low, high] = scaleEnds();
    const left = drawn.sent.note ? ", " + drawn.sent.note : "";
    const name = (number ? number.label : "Attention of each head" + left) + "   " + low;
    pen.text(MARGIN, middle, name, { ...text, colour: css("text").trim() });
    const from = MARGIN + (name.length + 1) * 6.1;
    const colours = drawn.sent.colours[dark ? "dark" : "light"];
    colours.forEach((one, i) => {
      const width = SCALE / colours.length;
      pen.box(from + i * width, middle - 4, width, 8, one);
    });
    pen.text(from + SCALE + 6, middle, high, { ...text, colour: css("text").trim() });
    return pen.finish();
  }

  window.attention = Object.assign({}, window.attention);
  window.attention.others = Object.assign({}, window.attention.others, { overview: { svg } });

  const overview = {
    draw(sent, chosen, cells, scale, log, isDark) {
      if (!sent) {
        clear();
        return;
      }
      const known = drawn.sent === sent;
      const thumbnails = known ? drawn.thumbnails : window.attention.thumbnails.of(sent);
      dark = Boolean(isDark);
      const look = { cells, own: scale === "own", log: Boolean(log) };
      drawn = { sent, thumbnails, chosen: chosen || [], ...look };
      if (!known) {
        point(null);
      }
      schedule();
    },
  };

  // The grid takes shape only while it is seen.
  document.addEventListener("picture", ({ detail }) => {
    shown = detail === "overview";
    showTools();
    schedule();
  });

  window.dash_clientside = Object.assign({}, window.dash_clientside, { overview });
})();
