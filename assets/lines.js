// The prompt twice, queries on the left and keys on the right, and a line for each weight: one colour
// a head, the stronger the weight the more opaque. A token that is pointed at shows its lines alone.
//
// All is painted on one canvas as high as what is in sight, so that neither many lines nor a long
// prompt costs more than a screen; weak lines first, in slices that leave room for other work.

(function () {
  "use strict";

  const ROW = 16; // px from one token to the next
  const SIZE = 11; // px, of a token
  const PAD = 6; // px, above the first token and beside the tokens
  const GLYPH = 0.602; // width of a character, in sizes
  const LONGEST = 16; // characters of a token's label
  const FIGURE = 32; // px, of a weight beside a token
  const FIGURES = 3; // with more heads, only the largest weight stands beside a token
  const HUES = 7;
  const MAX_WIDTH = 760; // px
  const LEVELS = 16; // of opacity
  const FAINTEST = 0.04; // a fainter line is not painted
  const MOST = 12000; // lines painted while no token is selected; see viz/strongest.py
  const BATCH = 400; // lines of one stroke
  const SLICE = 10; // ms of painting before other work gets a turn
  const NAMED = 2; // keys said in words, of each head
  const SAID = 18; // characters that one of them takes, about
  const MOST_SAID = 6; // lines of them; more can be scrolled to
  const OPACITY = 0.9; // of the strongest line

  function clipped(label) {
    const characters = [...label];
    return characters.length > LONGEST ? characters.slice(0, LONGEST - 1).join("") + "…" : label;
  }

  function make(name, className) {
    const element = document.createElement("div");
    element.className = className;
    if (name) {
      element.setAttribute("aria-label", name);
    }
    return element;
  }

  window.attention = Object.assign({ drawers: {} }, window.attention);
  window.attention.drawers.lines = function (place, host) {
    const { weights, canvasPen, svgPen, stackChoice } = window.attention;
    const stacks = stackChoice(() => {
      hovered = null;
      fillLegend();
      refresh();
    });

    // --- what stands in the place ---

    const legend = make("Heads: press one to hide or show its lines", "lines-legend");
    legend.setAttribute("role", "group");
    const note = make(null, "lines-note");
    const scroller = make(null, "lines-scroller");
    const canvas = document.createElement("canvas");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    const spacer = make(null, "lines-spacer");
    scroller.append(canvas, spacer);
    const reading = make(null, "lines-reading");
    reading.setAttribute("aria-live", "polite");
    place.replaceChildren(stacks.element, legend, note, reading, scroller);

    let known = null;
    let chosen = { token: null, direction: "at", side: "prompt" };
    let hovered = null; // { token, direction }
    let hidden = new Set(); // heads, by the legend
    let strongest = null; // the lines that are painted while no token is selected
    let colours = null;
    let geometry = null;
    let turn = 0; // of painting: a later one ends it

    function readColours() {
      const style = window.getComputedStyle(place);
      const read = (name) => style.getPropertyValue("--av-" + name).trim();
      colours = {
        text: read("text"),
        muted: read("muted"),
        surface: read("surface"),
        mark: read("grid"),
        heads: Array.from({ length: HUES }, (_, i) => read("head-" + i)),
      };
    }

    function hueOf(head) {
      return stacks.place(known, head) % HUES;
    }

    function visibleHeads() {
      return stacks.heads(known).filter((head) => !hidden.has(head));
    }

    // How many tokens there are on the side of a direction, and what they are called.
    function count(direction) {
      return geometry.labels[direction].length;
    }

    function measure() {
      const labels = { at: stacks.labels(known, "at").map(clipped), by: stacks.labels(known, "by").map(clipped) };
      const n = Math.max(labels.at.length, labels.by.length);
      const widest = (side) => labels[side].reduce((most, label) => Math.max(most, [...label].length), 1);
      const width = Math.min(Math.max(scroller.clientWidth, 320), MAX_WIDTH);
      const figures = Math.min(Math.max(visibleHeads().length, 1), FIGURES) * FIGURE + PAD;
      const room = (side) => Math.ceil(widest(side) * SIZE * GLYPH) + 2 * PAD;
      geometry = {
        n,
        labels,
        width,
        left: figures + room("at"),
        right: width - figures - room("by"),
        height: n * ROW + 2 * PAD,
      };
    }

    function middle(position) {
      return PAD + (position + 0.5) * ROW;
    }

    // --- lines ---

    // The lines of all tokens: the strongest ones, in groups of a head and a level of opacity.
    function findStrongest() {
      const heads = visibleHeads();
      const BINS = 512;
      const perBin = new Uint32Array(BINS + 1);
      const each = (visit) => {
        for (const head of heads) {
          const { cells, scale, single } = known.maps[head];
          if (cells.step !== 1) {
            single.values.forEach((weight, i) => {
              const strength = weights.strength(weight, scale);
              if (strength >= FAINTEST) {
                visit(head, single.queries[i], single.keys[i], strength);
              }
            });
            continue;
          }
          cells.values.forEach((row, query) => {
            for (let key = 0; key < row.length; key++) {
              const strength = weights.strength(row[key], scale);
              if (strength >= FAINTEST) {
                visit(head, query, key, strength);
              }
            }
          });
        }
      };
      let of = 0;
      each((head, query, key, strength) => {
        perBin[Math.floor(strength * BINS)]++;
        of++;
      });
      let bin = BINS;
      let n = 0;
      while (bin >= 0 && n + perBin[bin] <= MOST) {
        n += perBin[bin--];
      }
      const least = (bin + 1) / BINS;
      const groups = new Map();
      each((head, query, key, strength) => {
        if (strength >= least) {
          const level = Math.min(Math.floor(strength * LEVELS), LEVELS - 1);
          const name = level * 1000 + known.order.indexOf(head);
          const group = groups.get(name) || { head, level, ends: [] };
          group.ends.push(query, key);
          groups.set(name, group);
        }
      });
      const sorted = [...groups.entries()].sort((a, b) => a[0] - b[0]).map((entry) => entry[1]);
      const whole = heads.every((head) => known.maps[head].cells.step === 1);
      return { groups: sorted, n, of: whole ? of : null };
    }

    // The lines of one token, and the weights beside the tokens at their other ends.
    function linesOf(selected) {
      const { token, direction } = selected;
      const groups = [];
      const figures = [];
      for (const head of visibleHeads()) {
        const found = host.weights(head, token, direction);
        if (!found) {
          return null;
        }
        const levels = new Map();
        const { scale } = known.maps[head];
        found.forEach((weight, other) => {
          const strength = weights.strength(weight, scale);
          if (strength > 0.01) {
            const level = Math.min(Math.floor(strength * LEVELS), LEVELS - 1);
            const group = levels.get(level) || { head, level, ends: [] };
            group.ends.push(...(direction === "at" ? [token, other] : [other, token]));
            levels.set(level, group);
          }
        });
        groups.push(...levels.values());
        figures.push({ head, found });
      }
      groups.sort((a, b) => a.level - b.level);
      return { groups, figures };
    }

    function current() {
      const isHere = chosen.token !== null && chosen.side === stacks.side(chosen.direction);
      const selected = hovered || (isHere ? chosen : null);
      return selected && selected.token < count(selected.direction) ? selected : null;
    }

    // --- painting: a generator that rests after each stroke ---

    function* paint(pen, top, bottom) {
      const { n, left, right, labels, width } = geometry;
      const first = Math.max(0, Math.floor((top - PAD) / ROW));
      const last = Math.min(n - 1, Math.ceil((bottom - PAD) / ROW));
      const selected = current();
      const own = selected && linesOf(selected);
      const groups = selected ? (own ? own.groups : []) : strongest.groups;
      if (selected) {
        const x = selected.direction === "at" ? PAD : right;
        const across = (selected.direction === "at" ? left : width - PAD) - x;
        pen.box(x, middle(selected.token) - ROW / 2, across, ROW, colours.mark);
      }
      const lit = own && own.figures.length ? said(own.figures) : null;
      for (let i = first; i <= last; i++) {
        for (const side of ["at", "by"].filter((one) => i < count(one))) {
          const isSelected = selected && selected.token === i && selected.direction === side;
          const isOther = selected && selected.direction !== side;
          const quiet = selected && !isSelected && !(isOther && lit && lit[i]);
          const isRead = i === known.marked && stacks.side(side) === "prompt";
          pen.text(side === "at" ? left - PAD : right + PAD, middle(i), labels[side][i], {
            size: SIZE,
            bold: isSelected || isRead,
            align: side === "at" ? "right" : "left",
            colour: quiet ? colours.muted : colours.text,
          });
        }
      }
      if (own) {
        paintFigures(pen, selected, own.figures, first, last);
      }
      yield;
      const thickness = selected ? 1.5 : 1;
      for (const { head, level, ends } of groups) {
        const opacity = (OPACITY * (level + 1)) / LEVELS;
        const colour = colours.heads[hueOf(head)];
        let segments = [];
        for (let i = 0; i < ends.length; i += 2) {
          const from = middle(ends[i]);
          const to = middle(ends[i + 1]);
          if (Math.max(from, to) >= top && Math.min(from, to) <= bottom) {
            segments.push(left, from, right, to);
          }
          if (segments.length >= 4 * BATCH) {
            pen.lines(segments, colour, opacity, thickness);
            segments = [];
            yield;
          }
        }
        if (segments.length) {
          pen.lines(segments, colour, opacity, thickness);
          yield;
        }
      }
    }

    // Whether any head has a figure at each position.
    function said(figures) {
      return Array.from(figures[0].found, (_, i) =>
        figures.some(({ head, found }) => weights.isSaid(found[i], known.maps[head].scale))
      );
    }

    // Weights stand at the outer side of the tokens that they lead to.
    function paintFigures(pen, selected, figures, first, last) {
      const onRight = selected.direction === "at";
      const edge = onRight ? geometry.width - PAD : PAD + FIGURE;
      const few = figures.length <= FIGURES;
      for (let i = first; i <= Math.min(last, figures[0].found.length - 1); i++) {
        const here = few
          ? figures
          : [figures.reduce((best, one) => (one.found[i] > best.found[i] ? one : best))];
        here.forEach(({ head, found }, column) => {
          const shift = (onRight ? here.length - 1 - column : -column) * FIGURE;
          pen.text(edge - shift, middle(i), weights.short(found[i], known.maps[head].scale), {
            size: SIZE - 1,
            bold: false,
            align: "right",
            colour: colours.heads[hueOf(head)],
          });
        });
      }
    }

    function repaint() {
      if (!known || place.hidden) {
        return;
      }
      const mine = ++turn;
      const begun = window.performance.now();
      const top = scroller.scrollTop;
      const height = scroller.clientHeight;
      const ratio = window.devicePixelRatio || 1;
      const [across, down] = [Math.round(geometry.width * ratio), Math.round(height * ratio)];
      if (canvas.width !== across || canvas.height !== down) {
        canvas.width = across;
        canvas.height = down;
        canvas.style.width = geometry.width + "px";
        canvas.style.height = height + "px";
      }
      const context = canvas.getContext("2d");
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, geometry.width, height);
      const strokes = paint(canvasPen(context, top), top, top + height);
      const slice = () => {
        const started = window.performance.now();
        while (mine === turn && window.performance.now() - started < SLICE) {
          if (strokes.next().done) {
            canvas.dataset.painted = String(mine);
            canvas.dataset.ms = (window.performance.now() - begun).toFixed(1);
            return;
          }
        }
        if (mine === turn) {
          window.requestAnimationFrame(slice);
        }
      };
      slice();
      say();
    }

    // --- in words ---

    function say() {
      const selected = current();
      if (selected) {
        const name = selected.token + " " + stacks.labels(known, selected.direction)[selected.token];
        const verb = selected.direction === "at" ? " looks at" : " is looked at by";
        const parts = visibleHeads().map((head) => inWords(head, selected));
        const waiting = parts.includes(null);
        note.textContent = "";
        reading.textContent = waiting
          ? name + " …"
          : name + verb + " " + (parts.filter(Boolean).join(" · ") || "nothing above the threshold");
        canvas.setAttribute("aria-label", "Lines of token " + name);
        return;
      }
      reading.textContent = "";
      const { n, of } = strongest;
      const figure = (number) => number.toLocaleString("en");
      canvas.setAttribute("aria-label", "Attention as lines from queries, left, to keys, right");
      note.textContent =
        of === null
          ? "The strongest " + figure(n) + " lines of all. Point at a token for all of its own."
          : n < of
            ? "The strongest " + figure(n) + " of " + figure(of) + " lines. Point at a token for all of its own."
            : "";
    }

    // How many lines what is said of a token may take: of every head that is shown.
    function saidLines() {
      const perLine = Math.max(1, Math.floor(scroller.clientWidth / (SIZE * GLYPH)));
      const characters = LONGEST + 16 + visibleHeads().length * (SAID * NAMED + 12);
      return Math.min(Math.max(2, Math.ceil(characters / perLine)), MOST_SAID);
    }

    function inWords(head, { token, direction }) {
      const found = host.weights(head, token, direction);
      if (!found) {
        return null;
      }
      const others = stacks.labels(known, direction === "at" ? "by" : "at");
      const best = weights
        .strongest(found, NAMED, known.maps[head].scale)
        .map((i) => i + " " + others[i] + " " + weights.exact(found[i]));
      return best.length ? known.maps[head].name + ": " + best.join(", ") : "";
    }

    // --- the legend ---

    function fillLegend() {
      legend.replaceChildren(
        ...stacks.heads(known).map((head) => {
          const button = document.createElement("button");
          button.type = "button";
          button.className = "lines-head";
          button.value = head;
          button.style.setProperty("--hue", `var(--av-head-${hueOf(head)})`);
          button.textContent = known.maps[head].name;
          button.setAttribute("aria-pressed", String(!hidden.has(head)));
          button.addEventListener("click", () => toggle(head));
          return button;
        })
      );
      if (stacks.heads(known).length > HUES) {
        legend.append(make(null, "lines-swap"));
        legend.lastChild.textContent = HUES + " at once, one a colour: press one to swap it in";
      }
    }

    // A head that is shown takes the place of the one of its hue.
    function toggle(head) {
      if (hidden.delete(head)) {
        visibleHeads()
          .filter((other) => other !== head && hueOf(other) === hueOf(head))
          .forEach((other) => hidden.add(other));
      } else {
        hidden.add(head);
      }
      for (const button of legend.querySelectorAll("button")) {
        button.setAttribute("aria-pressed", String(!hidden.has(button.value)));
      }
      refresh();
    }

    function refresh() {
      measure();
      place.style.setProperty("--said-lines", String(saidLines()));
      const { scrollTop } = scroller; // which is lost while there is nothing to scroll over
      spacer.style.height = "0px";
      strongest = findStrongest();
      scroller.style.setProperty("--lines-height", geometry.height + "px");
      spacer.style.height = Math.max(0, geometry.height - scroller.clientHeight) + "px";
      scroller.scrollTop = scrollTop;
      canvas.dataset.lines = String(strongest.n);
      repaint();
    }

    // --- pointing ---

    function tokenAt(event) {
      const box = canvas.getBoundingClientRect();
      const x = event.clientX - box.left;
      const y = event.clientY - box.top + scroller.scrollTop;
      const token = Math.floor((y - PAD) / ROW);
      const direction = x <= geometry.left + ROW ? "at" : x >= geometry.right - ROW ? "by" : null;
      return direction && token >= 0 && token < count(direction) ? { token, direction } : null;
    }

    function select(token, direction) {
      host.select(token, direction, stacks.side(direction));
    }

    function same(a, b) {
      return a === b || (a && b && a.token === b.token && a.direction === b.direction);
    }

    let asked = false; // to repaint with the next frame

    function soon() {
      if (!asked) {
        asked = true;
        window.requestAnimationFrame(() => {
          asked = false;
          repaint();
        });
      }
    }

    function hover(found) {
      if (!same(found, hovered)) {
        hovered = found;
        canvas.style.cursor = found ? "pointer" : "default";
        soon();
      }
    }

    canvas.addEventListener("mousemove", (event) => hover(tokenAt(event)));
    canvas.addEventListener("mouseleave", () => hover(null));
    canvas.addEventListener("click", (event) => {
      const found = tokenAt(event);
      const off = !found || (same(found, chosen) && chosen.side === stacks.side(found.direction));
      hovered = off ? null : hovered;
      select(off ? null : found.token, found ? found.direction : chosen.direction);
    });
    canvas.addEventListener("keydown", (event) => {
      const at = current() || { token: -1, direction: "at" };
      const last = count(at.direction) - 1;
      const across = (direction) => Math.min(Math.max(at.token, 0), count(direction) - 1);
      const goals = {
        ArrowDown: [Math.min(at.token + 1, last), at.direction],
        ArrowUp: [Math.max(at.token - 1, 0), at.direction],
        ArrowLeft: [across("at"), "at"],
        ArrowRight: [across("by"), "by"],
        Home: [0, at.direction],
        End: [last, at.direction],
        Escape: [null, at.direction],
      };
      if (event.key in goals) {
        event.preventDefault();
        hovered = null;
        select(...goals[event.key]);
      }
    });
    scroller.addEventListener("scroll", soon);
    new ResizeObserver(() => known && !place.hidden && geometry && refresh()).observe(place);
    new MutationObserver(() => {
      if (known) {
        readColours();
        soon();
      }
    }).observe(document.documentElement, { attributeFilter: ["data-mantine-color-scheme"] });

    function reveal(token) {
      const y = middle(token);
      if (y < scroller.scrollTop + ROW || y > scroller.scrollTop + scroller.clientHeight - ROW) {
        scroller.scrollTop = y - scroller.clientHeight / 2;
      }
    }

    return {
      update(now) {
        const before = known && known.order;
        known = { ...now };
        hovered = null;
        stacks.update(known);
        if (!before || before.join() !== known.order.join()) {
          hidden = new Set([
            ...[...hidden].filter((head) => known.order.includes(head)),
            // Two heads of one hue cannot be told apart.
            ...known.order.filter(
              (head) => stacks.place(known, head) >= HUES && !(before || []).includes(head)
            ),
          ]);
        }
        readColours();
        fillLegend();
        refresh();
      },

      select(now) {
        chosen = now;
        if (!known) {
          return;
        }
        if (!hovered && current()) {
          reveal(chosen.token);
        }
        repaint();
      },

      // What was asked of the host has come.
      weightsCame: repaint,

      // The picture as SVG, all of it, the legend below.
      svg() {
        const heads = visibleHeads();
        const longest = Math.max(0, ...heads.map((head) => known.maps[head].name.length));
        const each = Math.max(70, Math.ceil(longest * SIZE * GLYPH) + 13 + 2 * PAD);
        const perLine = Math.max(1, Math.floor(geometry.width / each));
        const lines = Math.ceil(heads.length / perLine);
        const height = geometry.height + lines * ROW + PAD;
        const pen = svgPen(geometry.width, height, colours.surface);
        for (const stroke of paint(pen, 0, geometry.height)) {
          void stroke; // painted
        }
        heads.forEach((head, i) => {
          const x = PAD + (i % perLine) * each;
          const y = geometry.height + Math.floor(i / perLine) * ROW;
          pen.box(x, y + 3, 9, 9, colours.heads[hueOf(head)]);
          const style = { size: SIZE, bold: false, align: "left", colour: colours.text };
          pen.text(x + 13, y + 8, known.maps[head].name, style);
        });
        return pen.finish();
      },
    };
  };
})();
