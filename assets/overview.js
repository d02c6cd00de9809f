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

  // --- codes: see viz/overview.py ---

  const FIRST = 2;
  const LAST = 255;

  // What is drawn: the message with its codes spread out, and what else it depends on.
  let drawn = { sent: null, codes: null, chosen: [], cells: "thumbnail", own: false, log: false };
  let dark = false;
  let shown = false;
  let grid = null; // where the tiles stand
  let pointed = null; // { layer, head } of the head that is enlarged

  function frame() {
    return document.getElementById("overview-frame");
  }

  // Bytes as an array [layer][head][row][column]; what causal attention can't reach is blank, 0.
  function spread({ codes, n_layers, n_heads, side, causal }) {
    const text = window.atob(codes.replace(/-/g, "+").replace(/_/g, "/"));
    const all = new Uint8Array(n_layers * n_heads * side * side);
    let next = 0;
    for (let row = 0; row < all.length; row += side) {
      const length = causal ? ((row / side) % side) + 1 : side;
      for (let column = 0; column < length; column++) {
        all[row + column] = text.charCodeAt(next++);
      }
    }
    return all;
  }

  function weightOf(code, floor) {
    return code < FIRST ? 0 : Math.pow(floor, 1 - (code - FIRST) / (LAST - FIRST));
  }

  function tileOf({ layer, head }) {
    return layer * drawn.sent.n_heads + head;
  }

  // The largest code of some heads, without the trivial 1 of a causal map's first row.
  function largestCode(first, count) {
    const { side, causal } = drawn.sent;
    const area = side * side;
    let largest = 0;
    for (let tile = first; tile < first + count; tile++) {
      const from = tile * area + (causal && side > 1 ? side : 0);
      for (let i = from; i < (tile + 1) * area; i++) {
        largest = Math.max(largest, drawn.codes[i]);
      }
    }
    return largest;
  }

  // --- colours ---

  function css(name) {
    return window.getComputedStyle(document.documentElement).getPropertyValue("--av-" + name);
  }

  function stops() {
    const named = drawn.sent.colours[dark ? "dark" : "light"];
    return named.map((colour) => colour.match(/\d+/g).map(Number));
  }

  function mixed(colours, share) {
    const at = Math.min(Math.max(share, 0), 1) * (colours.length - 1);
    const low = Math.min(Math.floor(at), colours.length - 2);
    return colours[low].map((from, i) => from + (at - low) * (colours[low + 1][i] - from));
  }

  // Where a weight stands on the scale that ends at `most`, from 0 to 1.
  function shareOf(weight, most) {
    if (!drawn.log) {
      return weight / most;
    }
    const floor = Math.min(drawn.sent.floor, most / 10);
    return Math.log(Math.max(weight, floor) / floor) / Math.log(most / floor);
  }

  // The colour of each code, as four bytes; blank is transparent.
  function coloured(largest) {
    const { floor } = drawn.sent;
    const most = weightOf(largest, floor) || 1;
    const table = new Uint8ClampedArray(4 * (LAST + 1));
    const colours = stops();
    for (let code = 1; code <= LAST; code++) {
      table.set([...mixed(colours, shareOf(weightOf(code, floor), most)), 255], 4 * code);
    }
    return table;
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

  // For each of `size` pixels, from which cell up to which it shows the largest of.
  function spans(size, side) {
    return Array.from({ length: size }, (_, i) => {
      const from = Math.floor((i * side) / size);
      return [from, Math.max(from + 1, Math.ceil(((i + 1) * side) / size))];
    });
  }

  // The first key is within reach of every query, so nothing is blank there but what was not read.
  function wasRead(tile) {
    return drawn.codes[tile * drawn.sent.side * drawn.sent.side] !== 0;
  }

  function thumbnail(context, tile, size, colours) {
    const { side } = drawn.sent;
    const image = context.createImageData(size, size);
    const pieces = spans(size, side);
    const start = tile * side * side;
    for (let y = 0; y < size; y++) {
      for (let x = 0; x < size; x++) {
        let code = 0;
        for (let row = pieces[y][0]; row < pieces[y][1]; row++) {
          for (let column = pieces[x][0]; column < pieces[x][1]; column++) {
            code = Math.max(code, drawn.codes[start + row * side + column]);
          }
        }
        const place = 4 * (y * size + x);
        for (let i = 0; i < 4; i++) {
          image.data[place + i] = colours[4 * code + i];
        }
      }
    }
    return image;
  }

  function metric() {
    return drawn.sent.metrics.find(({ name }) => name === drawn.cells);
  }

  function largestValue({ values }) {
    return Math.max(0, ...values.flat().filter((value) => value !== null)) || 1;
  }

  function paintTiles(context) {
    const { n_layers, n_heads } = drawn.sent;
    const number = metric();
    const colours = stops();
    const most = number && largestValue(number);
    const together = number || drawn.own ? null : coloured(largestCode(0, n_layers * n_heads));
    const edge = grid.tile - GAP;
    const size = Math.max(1, Math.round(edge * grid.dots));
    for (let layer = 0; layer < n_layers; layer++) {
      for (let head = 0; head < n_heads; head++) {
        const { x, y } = corner(layer, head);
        const value = number ? number.values[layer][head] : null;
        context.fillStyle = css("empty");
        if (number && value !== null) {
          context.fillStyle = "rgb(" + mixed(colours, value / most).map(Math.round).join() + ")";
        }
        context.fillRect(x, y, edge, edge);
        const tile = tileOf({ layer, head });
        if (!number && wasRead(tile)) {
          const image = thumbnail(context, tile, size, together || coloured(largestCode(tile, 1)));
          context.putImageData(image, Math.round(x * grid.dots), Math.round(y * grid.dots));
        }
      }
    }
  }

  function paintLabels(context) {
    const { n_layers, n_heads } = drawn.sent;
    const every = Math.ceil(LABEL_ROOM / grid.tile);
    context.fillStyle = css("muted");
    context.font = "10px " + css("mono");
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (let layer = 0; layer < n_layers; layer += every) {
      const { x, y } = corner(layer, 0);
      context.fillText("L" + layer, x - 4, y + grid.tile / 2);
    }
    const across = Math.ceil((2 * LABEL_ROOM) / grid.tile);
    context.textAlign = "center";
    for (let layer = 0; layer < n_layers; layer += grid.rows) {
      for (let head = 0; head < n_heads; head += across) {
        const { x, y } = corner(layer, head);
        context.fillText("H" + head, x + grid.tile / 2 - GAP / 2, y + grid.tile + COLUMN_LABEL / 2);
      }
    }
  }

  function outline(context, { layer, head }, colour, width) {
    const { x, y } = corner(layer, head);
    const edge = grid.tile - GAP;
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.strokeRect(x - 0.5, y - 0.5, edge + 1, edge + 1);
  }

  function parsed(short) {
    const [layer, head] = short.split(".").map(Number);
    return { layer, head };
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
    for (const head of drawn.chosen.map(parsed)) {
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

  function paintLegend() {
    const number = metric();
    const name = (value) => String(Number(value.toPrecision(2)));
    let [low, high] = ["0", ""];
    if (number) {
      high = (name(largestValue(number)) + " " + number.unit).trim();
    } else {
      const { n_layers, n_heads, floor } = drawn.sent;
      const most = weightOf(largestCode(0, n_layers * n_heads), floor);
      low = drawn.log ? "≤" + floor : "0";
      high = drawn.own ? "each head's largest" : name(most);
    }
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
    return layer + "." + head;
  }

  function enlarge(head) {
    const { root, title, chosen, picture, numbers } = cardIn(frame());
    title.textContent = "L" + head.layer + "H" + head.head;
    chosen.textContent = drawn.chosen.includes(shortOf(head)) ? "chosen" : "";
    const size = Math.round(ENLARGED * grid.dots);
    picture.width = picture.height = size;
    picture.style.width = picture.style.height = ENLARGED + "px";
    const tile = tileOf(head);
    const { n_layers, n_heads } = drawn.sent;
    const range = drawn.own ? [tile, 1] : [0, n_layers * n_heads];
    const context = picture.getContext("2d");
    context.putImageData(thumbnail(context, tile, size, coloured(largestCode(...range))), 0, 0);
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

  const overview = {
    // The grid takes shape only while it is seen.
    choose(picture) {
      shown = picture === "overview";
      showTools();
      schedule();
    },

    draw(sent, chosen, cells, scale, log, isDark) {
      if (!sent) {
        return;
      }
      const known = drawn.sent === sent;
      const codes = known ? drawn.codes : spread(sent);
      dark = Boolean(isDark);
      drawn = { sent, codes, chosen: chosen || [], cells, own: scale === "own", log: Boolean(log) };
      if (!known) {
        point(null);
      }
      schedule();
    },
  };

  window.dash_clientside = Object.assign({}, window.dash_clientside, { overview });
})();
