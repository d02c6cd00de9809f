// Attention on the picture: a card a head, the picture with the weights of the selected token over
// the parts of it that its keys stand for; below it the prompt's words, shaded alike. Without a
// selected token it is the one whose prediction is read. Patches and words can be selected.

(function () {
  "use strict";

  const HUES = 7;
  const STRONGEST = 0.85; // opacity of the largest weight
  // Parts of a head's attention on a picture, and the lines around what holds them, px.
  const CONTOURS = [
    { part: 0.9, line: 1.5 },
    { part: 0.5, line: 3 },
  ];

  function element(name, className, text) {
    const made = document.createElement(name);
    made.className = className;
    if (text !== undefined) {
      made.textContent = text;
    }
    return made;
  }

  function percent(part) {
    return part >= 0.995 ? "100 %" : part < 0.01 ? (100 * part).toFixed(1) + " %" : Math.round(100 * part) + " %";
  }

  window.attention = Object.assign({ drawers: {} }, window.attention);
  window.attention.drawers.image = function (place, host) {
    const { weights } = window.attention;
    const note = element("p", "on-image-note");
    const tools = element("div", "on-image-tools");
    const grid = element("div", "on-image-grid");
    const strength = element("input", "");
    strength.type = "range";
    strength.min = 10;
    strength.max = 100;
    strength.value = 100;
    strength.setAttribute("aria-label", "Strength of the overlay");
    const label = element("label", "field-label", "overlay ");
    label.append(strength);
    const contours = element("input", "");
    contours.type = "checkbox";
    const outlined = element("label", "field-label", "as contours ");
    outlined.title = "Thick: the parts that hold half of a head's attention on the picture; thin: nine tenths";
    outlined.append(contours);
    const least = element("span", "on-image-tip");
    tools.append(label, outlined, least);
    strength.addEventListener("input", () => paint());
    contours.addEventListener("change", () => paint());
    place.replaceChildren(note, tools, grid);

    let known = null;
    let chosen = { token: null, direction: "at", side: "prompt" };
    let cards = []; // { head, hue, canvases, words, title, said, side, found }

    // --- what is selected ---

    // The parts of the picture that a side's positions show. An action expert looks at the prompt's
    // positions, and behind them at its own, which show nothing, as texts do.
    function boxesOf(side) {
      const { cells, seen, sides } = window.attention.images();
      if (isOwn(side)) {
        return (sides && sides[side]) || null;
      }
      return side === "acting" || side === "compared" ? null : side === "source" ? seen : cells;
    }

    // Whether a side is one that only a policy has which a person wrapped.
    function isOwn(side) {
      return side.startsWith("of-") || side.startsWith("keys-of-");
    }

    // Where a position of a side stands on another: what shows the same part of the picture, or has
    // the same label, numbers aside; -1 where there is none.
    function sameOn(from, position, to) {
      const box = (boxesOf(from) || [])[position];
      if (box) {
        return (boxesOf(to) || []).findIndex((one) => one && close(one, box));
      }
      const label = labelsOf(from)[position];
      return /^\d+$/.test(label) ? -1 : labelsOf(to).indexOf(label);
    }

    function labelsOf(side) {
      return window.attention.ofSide(known, side).labels;
    }

    // The selected position among those of a side: a patch that is selected in the prompt is the same
    // patch of the picture for the tower's heads, and the reverse.
    function selected(side) {
      const { token } = chosen;
      if (token !== null && chosen.side === side) {
        return token;
      }
      if (token !== null && (isOwn(side) || isOwn(chosen.side))) {
        const same = sameOn(chosen.side, token, side);
        if (same >= 0) {
          return same;
        }
      } else if (token !== null) {
        const from = boxesOf(chosen.side);
        const box = from && from[token];
        const to = boxesOf(side);
        const same = box && to ? to.findIndex((one) => one && close(one, box)) : -1;
        if (same >= 0) {
          return same;
        }
      }
      if (side === "all" && token !== null) {
        return chosen.side === "acting" ? token + known.labels.length : token;
      }
      if (side === "acting") {
        return Math.min(1, labelsOf(side).length - 1); // the first action, behind the state
      }
      if (side === "compared") {
        return labelsOf(side).findLastIndex((label) => !label.startsWith("padding/"));
      }
      if (isOwn(side) && labelsOf(side).includes("action 0")) {
        return labelsOf(side).indexOf("action 0");
      }
      return side === "prompt" || side === "all" ? known.marked : middle(boxesOf(side));
    }

    // The side that the selected position is one of, for a card: its queries if that looks, its
    // keys if that is looked at.
    function axisOf(one) {
      return chosen.direction === "at" ? one.side : one.keys;
    }

    // The side that a card's weights are of: the other one.
    function otherOf(one) {
      return chosen.direction === "at" ? one.keys : one.side;
    }

    // Where a position of the prompt's words, and of an action expert's behind them, stands on a
    // side; undefined where the side does not have it.
    function onSide(position, side, keys) {
      if (isOwn(keys) || isOwn(side)) {
        const there = side === keys ? position : sameOn(keys, position, side);
        return there < 0 ? undefined : there;
      }
      const own = known.labels.length;
      if (side === "acting") {
        return position < own ? undefined : position - own;
      }
      return side === "prompt" && position >= own ? undefined : position;
    }

    function close(one, other) {
      return one.every((edge, i) => Math.abs(edge - other[i]) < 1);
    }

    // The position that stands for the middle of the first picture.
    function middle(boxes) {
      const { pictures } = window.attention.images();
      const [x, y] = [pictures[0].width / 2, pictures[0].height / 2];
      const away = (box) => Math.hypot((box[1] + box[3]) / 2 - x, (box[2] + box[4]) / 2 - y);
      let nearest = 0;
      (boxes || []).forEach((box, i) => {
        if (box && box[0] === 0 && (!boxes[nearest] || away(box) < away(boxes[nearest]))) {
          nearest = i;
        }
      });
      return nearest;
    }

    // --- building ---

    function build() {
      const { pictures, cells, sides } = window.attention.images();
      const shows = cells || Object.values(sides || {}).some((boxes) => boxes);
      if (!pictures.length || !shows) {
        const untold = known.main
          ? "The file of this policy does not say which positions show parts of the picture"
          : "Which part of the picture each position shows could not be told from this model's processor";
        note.textContent = pictures.length
          ? untold + ", so nothing is drawn on it; Matrix and Text show the positions by number."
          : "There is no picture in this prompt: add one on the left.";
        grid.replaceChildren();
        tools.hidden = true;
        cards = [];
        return;
      }
      note.textContent = "";
      tools.hidden = false;
      cards = known.order.map((head, i) => card(head, i % HUES, pictures));
      grid.replaceChildren(...cards.map((one) => one.element));
    }

    function card(head, hue, pictures) {
      const made = element("section", "on-image-card");
      made.style.setProperty("--hue", `var(--av-head-${hue})`);
      const [side, keys] = known.maps[head].sides;
      const title = element("div", "on-image-title");
      const said = element("span", "on-image-said");
      title.append(element("span", "text-head", known.maps[head].name), said);
      const one = { head, hue, side, keys, element: made, said, words: null, canvases: [], found: null };
      made.append(title);
      const ofTexts = keys === "compared";
      (ofTexts ? [] : pictures).forEach((picture, i) => {
        const canvas = element("canvas", "on-image-canvas");
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", "Attention of " + known.maps[head].name + " on " + picture.name);
        const image = new window.Image();
        image.addEventListener("load", () => paint());
        image.src = picture.src;
        canvas.addEventListener("pointermove", (event) => point(one, i, event));
        canvas.addEventListener("pointerleave", () => (least.textContent = ""));
        canvas.addEventListener("click", (event) => pick(one, i, event));
        one.canvases.push({ canvas, image, picture });
        made.append(canvas);
      });
      if (keys !== "source") {
        one.words = element("div", "on-image-words");
        const ownFrom = known.labels.length; // where an action expert's own positions begin
        labelsOf(keys).forEach((text, position) => {
          if (ofTexts || !(boxesOf(keys) || [])[position]) {
            const word = element("button", "on-image-word", text);
            word.type = "button";
            word.dataset.position = position;
            word.addEventListener("click", () => {
              if (ofTexts || isOwn(keys)) {
                select(position, keys);
              } else if (position < ownFrom) {
                select(position, "prompt");
              } else {
                select(position - ownFrom, "acting");
              }
            });
            one.words.append(word);
          }
        });
        made.append(one.words);
      }
      return one;
    }

    // --- pointing ---

    function boxAt(one, index, event) {
      const { canvas, picture } = one.canvases[index];
      const frame = canvas.getBoundingClientRect();
      const x = ((event.clientX - frame.left) / frame.width) * picture.width;
      const y = ((event.clientY - frame.top) / frame.height) * picture.height;
      const boxes = boxesOf(one.keys) || [];
      let found = -1; // the smallest: a picture may be shown whole and in tiles
      boxes.forEach((box, i) => {
        const inside = box && box[0] === index && box[1] <= x && x < box[3] && box[2] <= y && y < box[4];
        if (inside && (found < 0 || area(box) < area(boxes[found]))) {
          found = i;
        }
      });
      return found;
    }

    function area(box) {
      return (box[3] - box[1]) * (box[4] - box[2]);
    }

    function point(one, index, event) {
      if (!isCurrent()) {
        return;
      }
      const at = boxAt(one, index, event);
      const shows = boxesOf(otherOf(one)) !== null; // else the picture's parts have no weights now
      const weight = shows && at >= 0 && one.found ? one.found[at] : NaN;
      const names = labelsOf(one.keys);
      least.textContent =
        at < 0 ? "" : known.maps[one.head].name + " · " + names[at] + " · " + weights.exact(weight);
    }

    function pick(one, index, event) {
      if (!isCurrent()) {
        return;
      }
      const at = boxAt(one, index, event);
      if (at >= 0) {
        select(at, one.keys === "all" ? "prompt" : one.keys);
      }
    }

    function select(position, side) {
      const again = chosen.token === position && chosen.side === side;
      host.select(again ? null : position, chosen.direction, side);
    }

    // --- painting ---

    function paint() {
      if (!known || !isCurrent()) {
        return;
      }
      for (const one of cards) {
        one.found = host.weights(one.head, selected(axisOf(one)), chosen.direction);
        if (one.found) {
          paintCard(one);
        }
      }
    }

    function paintCard(one) {
      const { found } = one;
      const [axis, other] = [axisOf(one), otherOf(one)];
      const boxes = boxesOf(other) || [];
      const { scale } = known.maps[one.head];
      let most = 0;
      let sum = 0;
      let onImage = 0;
      found.forEach((weight, i) => {
        if (weight > 0) {
          sum += weight;
          most = Math.max(most, boxes[i] || other === "compared" ? weight : 0);
          onImage += boxes[i] ? weight : 0;
        }
      });
      const whose = labelsOf(axis)[selected(axis)];
      const verb = chosen.direction === "at" ? " looks" : " is looked at";
      const sees = scale.unit === 1 && chosen.direction === "at" && axis !== "compared";
      const part = sees ? percent(sum ? onImage / sum : 0) + " on the image" : "";
      one.said.textContent = whose + verb + (part ? ", " + part : "") + ", max " + weights.exact(most);
      // By the scale that all maps have, so that a head which hardly looks at the picture shows it.
      const share = (weight) => (weight > 0 ? weights.strength(weight, scale) : 0);
      for (const { canvas, image, picture } of one.canvases) {
        paintCanvas(one, canvas, image, picture, boxes, share);
      }
      if (one.words) {
        for (const word of one.words.children) {
          const position = Number(word.dataset.position);
          const at = onSide(position, other, one.keys);
          const weight = at === undefined ? NaN : found[at];
          word.style.setProperty("--shade", Math.round(70 * share(weight)) + "%");
          word.title = word.textContent + (weight >= 0 ? ": " + weights.exact(weight) : "");
          word.classList.toggle("selected", onSide(position, axis, one.keys) === selected(axis));
        }
      }
    }

    function paintCanvas(one, canvas, image, picture, boxes, share) {
      const size = Number(getComputedStyle(grid).getPropertyValue("--side").replace("px", "")) || 300;
      const zoom = size / Math.max(picture.width, picture.height);
      const ratio = window.devicePixelRatio || 1;
      const [width, height] = [Math.round(picture.width * zoom), Math.round(picture.height * zoom)];
      canvas.style.width = width + "px";
      canvas.style.height = height + "px";
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      const pen = canvas.getContext("2d");
      pen.scale(ratio, ratio);
      pen.imageSmoothingEnabled = picture.width > width;
      if (image.complete && image.naturalWidth) {
        pen.filter = contours.checked ? "none" : "grayscale(0.55)";
        pen.drawImage(image, 0, 0, width, height);
        pen.filter = "none";
      }
      const hue = getComputedStyle(one.element).getPropertyValue("--hue").trim();
      const index = one.canvases.findIndex((each) => each.canvas === canvas);
      pen.fillStyle = hue;
      if (contours.checked) {
        for (const { part, line } of CONTOURS) {
          const rectangles = holding(one.found, boxes, index, part).map((i) => boxes[i]);
          pen.globalAlpha = strength.value / 100;
          pen.drawImage(outlineOf(canvas, rectangles, zoom * ratio, line * ratio, hue), 0, 0, width, height);
        }
      }
      boxes.forEach((box, i) => {
        if (!box || box[0] !== index || contours.checked) {
          return;
        }
        pen.globalAlpha = STRONGEST * share(one.found[i]) * (strength.value / 100);
        if (pen.globalAlpha > 0.004) {
          pen.fillRect(box[1] * zoom, box[2] * zoom, (box[3] - box[1]) * zoom, (box[4] - box[2]) * zoom);
        }
      });
      pen.globalAlpha = 1;
      const here = (boxesOf(axisOf(one)) || [])[selected(axisOf(one))];
      if (here && here[0] === index) {
        pen.strokeStyle = getComputedStyle(document.body).getPropertyValue("--av-accent").trim();
        pen.lineWidth = 2;
        pen.strokeRect(here[1] * zoom + 1, here[2] * zoom + 1, (here[3] - here[1]) * zoom - 2, (here[4] - here[2]) * zoom - 2);
      }
    }

    // The fewest positions that hold a part of what lies on a picture, largest first.
    function holding(found, boxes, index, part) {
      const there = [];
      boxes.forEach((box, i) => box && box[0] === index && found[i] > 0 && there.push(i));
      there.sort((a, b) => found[b] - found[a]);
      const wanted = part * there.reduce((sum, i) => sum + found[i], 0);
      let held = 0;
      return there.filter((i) => {
        const needed = held < wanted;
        held += needed ? found[i] : 0;
        return needed;
      });
    }

    // The outline around rectangles taken together: all are drawn thick, then their insides taken out.
    function outlineOf(canvas, rectangles, zoom, line, hue) {
      const sheet = document.createElement("canvas");
      [sheet.width, sheet.height] = [canvas.width, canvas.height];
      const pen = sheet.getContext("2d");
      const path = new window.Path2D();
      // At the picture's edges the line lies inside, or it would not be seen.
      const within = (edge, most) => Math.min(Math.max(edge * zoom, line), most - line);
      for (const [, left, top, right, bottom] of rectangles) {
        const [x, y] = [within(left, sheet.width), within(top, sheet.height)];
        path.rect(x, y, within(right, sheet.width) - x, within(bottom, sheet.height) - y);
      }
      pen.strokeStyle = hue;
      pen.lineWidth = 2 * line;
      pen.stroke(path);
      pen.globalCompositeOperation = "destination-out";
      pen.fill(path);
      pen.lineWidth = 1; // the seam between neighbours
      pen.stroke(path);
      return sheet;
    }

    document.addEventListener("pictures", () => known && show());

    // The pictures of a prompt are here before its attention is: until then what stood stays.
    function isCurrent() {
      return JSON.stringify(window.attention.images().names) === JSON.stringify(known.images);
    }

    function show() {
      if (isCurrent()) {
        build();
        paint();
      }
    }

    function svg(head) {
      const { svgPen } = window.attention;
      const wanted = cards.filter((one) => one.found && (!head || one.head === head));
      return wanted.length && svgPen ? drawn(wanted) : null;
    }

    // The cards as they stand, as pictures in an SVG.
    function drawn(wanted) {
      const gap = 12;
      let [x, tallest] = [0, 0];
      const parts = wanted.map((one) => {
        const name = known.maps[one.head].name;
        const title = `<text x="${x}" y="14" font-family="sans-serif" font-size="13" font-weight="600">${name}</text>`;
        const images = one.canvases.map(({ canvas }) => {
          const [width, height] = [parseFloat(canvas.style.width), parseFloat(canvas.style.height)];
          const image = `<image x="${x}" y="20" width="${width}" height="${height}" href="${canvas.toDataURL()}"/>`;
          x += width + gap;
          tallest = Math.max(tallest, height);
          return image;
        });
        return title + images.join("");
      });
      const size = `width="${x - gap}" height="${tallest + 20}"`;
      return `<svg xmlns="http://www.w3.org/2000/svg" ${size}>${parts.join("")}</svg>`;
    }

    return {
      update(now) {
        known = now;
        const first = known.maps[known.order[0]];
        const size = first && first.figure.layout.width;
        grid.style.setProperty("--side", (size || 300) + "px");
        show();
      },
      select(now) {
        chosen = now;
        paint();
      },
      weightsCame() {
        paint();
      },
      svg,
    };
  };
})();
