// Heat maps on plain canvases, for files that stand alone. Where a map has more weights than pixels,
// each dot is the largest of its weights, as on the page.

(function () {
  "use strict";

  const SIDE = 264; // px of a map's edge
  const LABEL = 10; // px of a token's name
  const TOP = 6; // px above a map: half of the first name
  const SCALE = 64; // px of the colours' scale
  const ROOM = 12; // px that a name needs
  const HEADER = 34; // px above a map
  const LEAST = 4; // px that a drag must go to be a zoom

  function element(name, className, text) {
    const made = document.createElement(name);
    made.className = className;
    made.textContent = text || "";
    return made;
  }

  // Pixels of the canvas for one of the page: enough for a saved picture too.
  function sharpness() {
    return Math.max(2, window.devicePixelRatio || 1);
  }

  function channels(colour) {
    return colour.match(/\d+/g).map(Number);
  }

  // 256 colours of a scale of evenly spaced ones.
  function table(scale) {
    const stops = scale.map(channels);
    return Array.from({ length: 256 }, (_, i) => {
      const at = (i / 255) * (stops.length - 1);
      const low = Math.min(Math.floor(at), stops.length - 2);
      return stops[low].map((channel, c) => channel + (stops[low + 1][c] - channel) * (at - low));
    });
  }

  window.attention.drawers.matrix = function (place, host) {
    const { weights } = window.attention;
    let known = null;
    let chosen = { token: null, direction: "at", side: "prompt" };
    let cards = [];
    let colours = null;
    const tip = element("div", "text-tip");
    tip.hidden = true;

    function readColours() {
      const style = window.getComputedStyle(place);
      const read = (name) => style.getPropertyValue("--av-" + name).trim();
      colours = { muted: read("muted"), text: read("text"), accent: read("accent"), table: table(host.scale()) };
    }

    // What the queries (0) or the keys (1) of a card's map are called.
    function names(card, which) {
      return window.attention.ofSide(known, known.maps[card.head].sides[which]).names;
    }

    function whole(card) {
      return { query: 0, key: 0, side: Math.max(names(card, 0).length, names(card, 1).length) };
    }

    // The largest weight at each pixel of a region, NaN where there is none.
    function pixels({ values }, region) {
      const pooled = region.side > SIDE;
      const across = pooled ? SIDE : region.side;
      const dots = new Float32Array(across * across).fill(NaN);
      const at = (position, first) => Math.floor(((position - first) * across) / region.side);
      for (let query = region.query; query < Math.min(region.query + region.side, values.length); query++) {
        const row = values[query];
        const line = at(query, region.query) * across;
        const end = Math.min(region.key + region.side, row.length);
        for (let key = region.key; key < end; key++) {
          const dot = line + at(key, region.key);
          const weight = row[key];
          if (weight >= known.threshold && !(weight <= dots[dot])) {
            dots[dot] = weight;
          }
        }
      }
      return { dots, across };
    }

    function paint(card) {
      const map = known.maps[card.head];
      const { region, canvas, left } = card;
      const { dots, across } = pixels(map.cells, region);
      const picture = new ImageData(across, across);
      dots.forEach((weight, i) => {
        if (weight === weight) {
          const shade = weights.strength(weight, map.scale);
          const [r, g, b] = colours.table[Math.round(shade * 255)];
          picture.data.set([r, g, b, 255], 4 * i);
        }
      });
      const small = document.createElement("canvas");
      small.width = small.height = across;
      small.getContext("2d").putImageData(picture, 0, 0);
      const ratio = sharpness();
      const context = canvas.getContext("2d");
      context.setTransform(ratio, 0, 0, ratio, 0, TOP * ratio);
      context.clearRect(0, -TOP, canvas.width, canvas.height);
      context.imageSmoothingEnabled = false;
      context.drawImage(small, left, 0, SIDE, SIDE);
      const each = Math.ceil(region.side / SIDE);
      const notes = [weights.exact(map.largest), each > 1 ? "each dot: max of about " + each + "×" + each : ""];
      card.note.textContent = ["max " + notes[0], notes[1], known.note].filter(Boolean).join(" · ");
      label(card, context);
      frame(card, context);
      paintScale(card);
      canvas.dataset.side = String(region.side);
    }

    // What the colours' scale begins and ends with, in words.
    function ends(card) {
      const { zmax, floor } = known.maps[card.head].scale;
      return [floor === null ? "0" : "≤" + weights.exact(floor), weights.exact(zmax)];
    }

    function paintScale(card) {
      const [low, high] = ends(card);
      const bar = element("span", "map-colours");
      const stops = [0, 64, 128, 191, 255].map((i) => "rgb(" + colours.table[i].map(Math.round).join() + ")");
      bar.style.background = "linear-gradient(to right, " + stops.join() + ")";
      bar.style.width = SCALE + "px";
      card.scale.replaceChildren(low, bar, high);
    }

    function label(card, context) {
      const { region, left } = card;
      const cell = SIDE / region.side;
      const step = Math.max(1, Math.ceil(ROOM / cell));
      context.font = LABEL + "px " + window.getComputedStyle(place).getPropertyValue("--mono");
      context.fillStyle = colours.muted;
      context.textBaseline = "middle";
      for (let i = 0; i < region.side; i += step) {
        const middle = (i + 0.5) * cell;
        context.textAlign = "right";
        context.fillText(names(card, 0)[region.query + i] || "", left - 4, middle);
        context.save();
        context.translate(left + middle, SIDE + 4);
        context.rotate(-Math.PI / 2);
        context.fillText(names(card, 1)[region.key + i] || "", 0, 0);
        context.restore();
      }
    }

    // Around the row, or the column, of the selected token; thinner around that which is read.
    function frame(card, context) {
      const { region, left } = card;
      const cell = SIDE / region.side;
      const [across, down] = [1, 0].map((which) => Math.min(SIDE, cell * names(card, which).length));
      const outline = (position, direction, side, colour, width) => {
        const which = direction === "at" ? 0 : 1;
        const first = direction === "at" ? region.query : region.key;
        const end = Math.min(first + region.side, names(card, which).length);
        const isHere = known.maps[card.head].sides[which] === side;
        if (!isHere || position === null || position < first || position >= end) {
          return;
        }
        const at = (position - first) * cell;
        // Up to the diagonal, or from it, where no query looks ahead.
        const { causal } = known.maps[card.head];
        const inside = (pixels) => Math.min(Math.max(pixels, 0), SIDE);
        const toKey = causal ? Math.min(across, inside((position + 1 - region.key) * cell)) : across;
        const fromQuery = causal ? inside((position - region.query) * cell) : 0;
        context.strokeStyle = colour;
        context.lineWidth = width;
        const box =
          direction === "at" ? [left, at, toKey, cell] : [left + at, fromQuery, cell, down - fromQuery];
        if (box[2] > 0 && box[3] > 0) {
          context.strokeRect(...box);
        }
      };
      outline(known.marked, "at", "prompt", colours.muted, 1);
      outline(chosen.token, chosen.direction, chosen.side, colours.accent, 2);
    }

    function cellAt(card, event) {
      const box = card.canvas.getBoundingClientRect();
      const { region } = card;
      const x = event.clientX - box.left - card.left;
      const y = event.clientY - box.top - TOP;
      if (x < 0 || y < 0 || x >= SIDE || y >= SIDE) {
        return null;
      }
      const query = region.query + Math.floor((y * region.side) / SIDE);
      const key = region.key + Math.floor((x * region.side) / SIDE);
      const isInside = query < names(card, 0).length && key < names(card, 1).length;
      return isInside ? { query, key, x, y } : null;
    }

    function showTip(card, event) {
      const cell = cellAt(card, event);
      const weight = cell ? known.maps[card.head].cells.values[cell.query][cell.key] : undefined;
      tip.hidden = !(weight >= known.threshold);
      if (!tip.hidden) {
        const { query, key } = cell;
        tip.textContent =
          "query  " + query + " " + names(card, 0)[query] + "\nkey    " + key + " " + names(card, 1)[key] +
          "\n" + known.value.padEnd(6) + " " + weights.exact(weight);
        tip.style.left = Math.min(event.clientX + 12, window.innerWidth - 190) + "px";
        tip.style.top = event.clientY + 14 + "px";
      }
    }

    function newCard(head) {
      const card = { head, element: element("div", "map-card"), from: null };
      card.region = whole(card);
      const longest = [...names(card, 0), ...names(card, 1)].reduce(
        (most, name) => Math.max(most, [...name].length), 1
      );
      card.left = Math.ceil(longest * LABEL * 0.602) + 8;
      card.note = element("div", "map-note");
      card.canvas = document.createElement("canvas");
      const ratio = sharpness();
      const [width, height] = [card.left + SIDE + 8, TOP + SIDE + card.left];
      card.canvas.width = width * ratio;
      card.canvas.height = height * ratio;
      card.canvas.style.width = width + "px";
      card.canvas.style.height = height + "px";
      card.canvas.setAttribute("role", "img");
      card.canvas.setAttribute("aria-label", "Attention of head " + known.maps[head].name);
      const title = element("div", "map-title");
      card.scale = element("span", "map-scale");
      title.append(element("span", "map-name", known.maps[head].name), card.scale);
      card.element.append(title, card.note, card.canvas);
      card.canvas.addEventListener("mousemove", (event) => showTip(card, event));
      card.canvas.addEventListener("mouseleave", () => (tip.hidden = true));
      card.canvas.addEventListener("mousedown", (event) => (card.from = cellAt(card, event)));
      card.canvas.addEventListener("mouseup", (event) => release(card, cellAt(card, event), event.shiftKey));
      card.canvas.addEventListener("dblclick", () => zoom(card, whole(card)));
      return card;
    }

    // A drag zooms all maps of these positions to a square around what it went over; a click selects
    // its query, with Shift its key.
    function release(card, to, byKey) {
      const { from } = card;
      card.from = null;
      if (!from || !to) {
        return;
      }
      if (Math.abs(to.x - from.x) < LEAST && Math.abs(to.y - from.y) < LEAST) {
        const direction = byKey ? "by" : "at";
        const token = byKey ? to.key : to.query;
        const of = known.maps[card.head].sides[byKey ? 1 : 0];
        const isChosen = token === chosen.token && of === chosen.side && direction === chosen.direction;
        host.select(isChosen ? null : token, direction, of);
        return;
      }
      const side = Math.max(Math.abs(to.query - from.query), Math.abs(to.key - from.key)) + 1;
      const first = (one, other, which) => Math.max(0, Math.min(one, other, names(card, which).length - side));
      zoom(card, {
        query: first(from.query, to.query, 0),
        key: first(from.key, to.key, 1),
        side,
      });
    }

    function zoom({ head }, region) {
      const sidesOf = (card) => known.maps[card.head].sides.join();
      for (const card of cards.filter((one) => sidesOf(one) === sidesOf({ head }))) {
        card.region = region;
        paint(card);
      }
    }

    return {
      update(now) {
        known = { ...now };
        readColours();
        if (!cards.length) {
          cards = [...known.order, ...known.extra].map(newCard);
          place.replaceChildren(...cards.map((card) => card.element), tip);
        }
        cards.forEach(paint);
      },

      select(now) {
        chosen = now;
        cards.forEach(paint);
      },

      svg() {
        const widest = Math.max(...cards.map((card) => card.left));
        const height = TOP + SIDE + widest + HEADER;
        const style = window.getComputedStyle(place);
        const surface = style.getPropertyValue("--av-surface").trim();
        const parts = cards.map((card) => {
          const width = card.left + SIDE + 8;
          const pen = window.attention.svgPen(width, height, surface);
          const text = { size: 12, bold: true, align: "left", colour: colours.text };
          pen.text(8, 10, known.maps[card.head].name, text);
          pen.text(8, 25, card.note.textContent, { ...text, size: 10, bold: false, colour: colours.muted });
          const [low, high] = ends(card);
          const small = { ...text, size: 10, bold: false, colour: colours.muted };
          const from = width - 36 - SCALE;
          pen.text(from - 4, 10, low, { ...small, align: "right" });
          for (let i = 0; i < SCALE; i++) {
            const colour = "rgb(" + colours.table[Math.round((255 * i) / SCALE)].map(Math.round).join() + ")";
            pen.box(from + i, 7, 1.2, 7, colour);
          }
          pen.text(from + SCALE + 4, 10, high, small);
          pen.picture(0, HEADER, width, TOP + SIDE + card.left, card.canvas.toDataURL());
          return pen.finish();
        });
        return window.attention.exports.together(parts, 3 * (widest + SIDE + 20) + 12, surface);
      },
    };
  };
})();
