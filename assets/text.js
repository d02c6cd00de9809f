// The prompt as flowing text, once for each head: the tokens that a selected one looks at, or that
// look at it, light up by weight. The token that is pointed at is the selected one, unless one is
// kept by a click; without either it is the one whose prediction is read. Where the keys are another
// text than the queries (cross attention), both stand there, and pointing at either lights the other.
//
// Pointing costs only what changes: of thousands of tokens those are touched that are in sight, or
// nearly so, and whose shade becomes another.

(function () {
  "use strict";

  const HUES = 7;
  const LEVELS = 20; // of shade
  const DARKEST = 70; // percent of a head's hue behind the strongest token: text stays readable
  const MOST_TOKENS = 16384; // over all rows at first: more make the page slow
  const NAMED = 3; // tokens named with their weights beside a head
  const NEWLINE = "⏎";

  function element(name, className, text) {
    const made = document.createElement(name);
    made.className = className;
    if (text !== undefined) {
      made.textContent = text;
    }
    return made;
  }

  window.attention = Object.assign({ drawers: {} }, window.attention);
  window.attention.drawers.text = function (place, host) {
    const { weights, svgPen, stackChoice } = window.attention;
    const stacks = stackChoice(() => show());
    const note = element("div", "text-note");
    const body = element("div", "text-rows");
    const tip = element("div", "text-tip");
    body.tabIndex = 0;
    body.setAttribute("role", "group");
    body.setAttribute("aria-label", "Prompt by head. Arrow keys move the selected token");
    tip.hidden = true;
    place.replaceChildren(stacks.element, note, body, tip);

    let known = null;
    let chosen = { token: null, direction: "at", side: "prompt" };
    let hovered = null; // { token, direction }
    let rows = []; // { head, hue, row, keys, at, by, found }; `at` and `by` are the queries' and the
    // keys' texts, one and the same where they are of the same positions: { flow, tokens, levels }

    // --- building ---

    // The number of the text that a token is of: red/0.
    function numberOf(label) {
      return label.slice(label.lastIndexOf("/"));
    }

    function flowOf(direction) {
      const flow = element("div", "text-flow");
      const labels = stacks.labels(known, direction);
      const ofTexts = stacks.side(direction) === "compared"; // each is a line of its own
      flow.dataset.direction = direction;
      labels.forEach((label, i) => {
        const token = element("span", "text-token", label);
        token.dataset.i = i;
        if (i && ofTexts) {
          const isNext = numberOf(label) !== numberOf(labels[i - 1]);
          flow.append(isNext ? document.createElement("br") : " ");
        }
        flow.append(token);
        if (label.endsWith(NEWLINE)) {
          flow.append(document.createElement("br"));
        }
      });
      return flow;
    }

    function build() {
      const all = stacks.heads(known);
      const patterns = stacks.own() ? [flowOf("at")] : [flowOf("at"), flowOf("by")];
      const n = patterns.reduce((sum, one) => sum + one.getElementsByClassName("text-token").length, 0);
      const heads = all.slice(0, pages * Math.max(1, Math.floor(MOST_TOKENS / n)));
      rows = heads.map((head, i) => {
        const row = element("section", "text-row");
        const hue = i % HUES;
        row.style.setProperty("--hue", `var(--av-head-${hue})`);
        const title = element("div", "text-title");
        const keys = element("span", "text-keys");
        title.append(element("span", "text-head", known.maps[head].name), keys);
        const texts = patterns.map(textOf);
        row.append(title);
        if (texts.length === 2) {
          row.classList.add("two");
          row.append(element("div", "text-side", "queries"), texts[0].flow, element("div", "text-side", "keys"));
        }
        row.append(texts[texts.length - 1].flow);
        return { head, hue, row, keys, at: texts[0], by: texts[texts.length - 1], found: null };
      });
      body.style.setProperty("--rows", rows.length);
      body.replaceChildren(...rows.map(({ row }) => row));
      note.replaceChildren(...(heads.length < all.length ? [...cut(heads.length, all.length)] : []));
    }

    // That there are more rows, and what shows them.
    function cut(n, of) {
      const button = element("button", "text-more", "Show more");
      button.type = "button";
      button.addEventListener("click", () => {
        pages++;
        built = "";
        show();
      });
      return ["The first " + n + " of " + of + " heads. ", button];
    }

    function textOf(pattern) {
      const flow = pattern.cloneNode(true);
      flow.addEventListener("scroll", () => scrolled(flow), { passive: true });
      const tokens = [...flow.getElementsByClassName("text-token")];
      return { flow, tokens, levels: new Uint8Array(tokens.length) };
    }

    // All rows show the same lines.
    function scrolled(by) {
      for (const row of rows) {
        const { flow } = row[by.dataset.direction];
        if (flow !== by && flow.scrollTop !== by.scrollTop) {
          flow.scrollTop = by.scrollTop;
        }
      }
      soon();
    }

    function other(direction) {
      return direction === "at" ? "by" : "at";
    }

    let tops = {}; // how far down each token stands, in every row, by the text

    // The tokens that are in sight, and as many again above and below: from, without end.
    function inSight(direction) {
      const { flow, tokens } = rows[0][direction];
      const { direction: text } = flow.dataset;
      tops[text] = tops[text] || tokens.map((token) => token.offsetTop);
      const firstFrom = (y) => {
        let [low, high] = [0, tokens.length];
        while (low < high) {
          const middle = (low + high) >> 1;
          [low, high] = tops[text][middle] < y ? [middle + 1, high] : [low, middle];
        }
        return low;
      };
      const height = flow.clientHeight;
      return [firstFrom(flow.scrollTop - height), firstFrom(flow.scrollTop + 2 * height)];
    }

    // --- lighting up ---

    function count(direction) {
      return rows[0][direction].tokens.length;
    }

    function isKept() {
      const { token, direction, side } = chosen;
      return token !== null && side === stacks.side(direction) && token < count(direction);
    }

    // { token, direction }
    function selected() {
      if (isKept()) {
        return chosen;
      }
      if (hovered !== null) {
        return hovered;
      }
      const { direction } = chosen;
      const last = count(direction) - 1;
      const isRead = known.marked !== null && stacks.side(direction) === "prompt";
      return { token: isRead ? Math.min(known.marked, last) : last, direction };
    }

    function shade(hue, level) {
      if (!level) {
        return "";
      }
      const share = Math.round((DARKEST * level) / LEVELS);
      return `color-mix(in srgb, var(--av-head-${hue}) ${share}%, transparent)`;
    }

    let marked = null; // { token, direction } of what was lit last

    function light() {
      const now = selected();
      const { token, direction } = now;
      const far = other(direction);
      const [from, end] = inSight(far);
      for (const row of rows) {
        const found = host.weights(row.head, token, direction);
        row.found = found;
        if (marked !== null && row[marked.direction] !== row[direction]) {
          lightRow(row, direction, null, 0, count(direction)); // it was the other text's turn
        }
        lightRow(row, far, found, from, end);
        nameStrongest(row, far, found);
        if (marked !== null) {
          row[marked.direction].tokens[marked.token].classList.remove("selected");
        }
        row[direction].tokens[token].classList.add("selected");
      }
      marked = now;
      body.classList.toggle("kept", isKept());
      body.dataset.token = String(token);
      body.dataset.lit = rows.every((row) => row.found) ? "yes" : "waiting";
    }

    // A token's weights may all be small: its strongest one has the darkest shade, as long as it is
    // not a tenth of what would have it otherwise.
    function scaleOf(head, found) {
      const { zmax, floor, threshold } = known.maps[head].scale;
      const largest = found.reduce((most, weight) => (weight > most ? weight : most), 0);
      return { zmax: Math.min(zmax, Math.max(largest, zmax / 10)), floor, threshold };
    }

    function lightRow({ head, hue, ...texts }, direction, found, from, end) {
      const { tokens, levels } = texts[direction];
      const scale = found && scaleOf(head, found);
      for (let i = from; i < end; i++) {
        const strength = found ? weights.strength(found[i], scale) : 0;
        const level = strength > 0 ? Math.round(strength * LEVELS) : 0;
        if (level !== levels[i]) {
          levels[i] = level;
          tokens[i].style.background = shade(hue, level);
        }
      }
    }

    function nameStrongest({ head, keys }, direction, found) {
      if (!found) {
        keys.replaceChildren("…");
        return;
      }
      const best = weights.strongest(found, NAMED, known.maps[head].scale);
      keys.replaceChildren(
        ...best.map((i) => {
          const label = stacks.labels(known, direction)[i];
          const button = element("button", "text-key", label + " " + weights.exact(found[i]));
          button.type = "button";
          button.title = "position " + i + ": show it";
          button.addEventListener("click", () => reveal(i, direction));
          return button;
        })
      );
    }

    function reveal(i, direction) {
      const { flow, tokens } = rows[0][direction];
      const top = tokens[i].offsetTop;
      if (top < flow.scrollTop || top > flow.scrollTop + flow.clientHeight - 24) {
        flow.scrollTop = top - flow.clientHeight / 2;
      }
    }

    // --- pointing ---

    let asked = false;

    function soon() {
      if (!asked) {
        asked = true;
        window.requestAnimationFrame(() => {
          asked = false;
          light();
        });
      }
    }

    // { token, direction }: of two texts, the one that is pointed at says in which direction.
    function pointedAt(event) {
      const token = event.target.closest && event.target.closest(".text-token");
      if (!token) {
        return null;
      }
      const { direction } = token.closest(".text-flow").dataset;
      return { token: Number(token.dataset.i), direction: stacks.own() ? chosen.direction : direction };
    }

    function showTip(event, pointed) {
      const lit = other(selected().direction);
      tip.hidden = pointed === null || !isKept() || !(stacks.own() || pointed.direction === lit);
      if (!tip.hidden) {
        const { token } = pointed;
        const said = rows.map(({ head, found }) => {
          const weight = found ? weights.exact(found[token]) : "…";
          return known.maps[head].name + " " + weight;
        });
        tip.textContent = token + " " + stacks.labels(known, lit)[token] + "\n" + said.join("\n");
        tip.style.left = Math.min(event.clientX + 12, window.innerWidth - 150) + "px";
        tip.style.top = event.clientY + 14 + "px";
      }
    }

    body.addEventListener("mousemove", (event) => {
      const pointed = pointedAt(event);
      showTip(event, pointed);
      // Between two tokens the last one stays lit: no flicker.
      if (pointed !== null && !same(pointed, hovered)) {
        hovered = pointed;
        soon();
      }
    });
    body.addEventListener("mouseleave", () => {
      tip.hidden = true;
      if (hovered !== null) {
        hovered = null;
        soon();
      }
    });
    body.addEventListener("click", (event) => {
      const pointed = pointedAt(event);
      if (pointed !== null) {
        tip.hidden = true;
        select(isKept() && same(pointed, chosen) ? null : pointed.token, pointed.direction);
      }
    });

    function same(a, b) {
      return b !== null && a.token === b.token && a.direction === b.direction;
    }

    function select(token, direction) {
      host.select(token, direction, stacks.side(direction));
    }

    // The token above or below, by where it stands.
    function neighbour(from, step, direction) {
      const { tokens } = rows[0][direction];
      const here = tokens[from];
      let line = null;
      let best = from;
      let least = Infinity;
      for (let i = from + step; i >= 0 && i < tokens.length; i += step) {
        const { offsetTop, offsetLeft } = tokens[i];
        if (line === null && offsetTop !== here.offsetTop) {
          line = offsetTop;
        }
        if (line !== null && offsetTop !== line) {
          break;
        }
        if (line !== null && Math.abs(offsetLeft - here.offsetLeft) < least) {
          least = Math.abs(offsetLeft - here.offsetLeft);
          best = i;
        }
      }
      return best;
    }

    body.addEventListener("keydown", (event) => {
      const { token: at, direction } = selected();
      const last = count(direction) - 1;
      const goals = {
        ArrowRight: () => Math.min(at + 1, last),
        ArrowLeft: () => Math.max(at - 1, 0),
        ArrowDown: () => neighbour(at, 1, direction),
        ArrowUp: () => neighbour(at, -1, direction),
        Home: () => 0,
        End: () => last,
        Escape: () => null,
      };
      if (event.key in goals && event.target === body) {
        event.preventDefault();
        const goal = goals[event.key]();
        // Shown at once, not when the page has heard of it.
        chosen = { token: goal, direction, side: stacks.side(direction) };
        light();
        if (goal !== null) {
          reveal(goal, direction);
        }
        select(goal, direction);
      }
    });

    new ResizeObserver(() => {
      tops = {};
      if (known && rows.length) {
        soon();
      }
    }).observe(body);

    let built = ""; // heads and labels that the rows were made of
    let pages = 1; // of as many rows as are quick

    function show() {
      hovered = null;
      const names = stacks.heads(known).map((head) => known.maps[head].name);
      const others = Object.values(known.sides).map((one) => one.labels);
      const wanted = JSON.stringify([names, known.labels, others]);
      if (wanted !== built) {
        built = wanted;
        marked = null;
        tops = {};
        build();
      }
      if (rows.length) {
        light();
        const { token, direction } = selected();
        reveal(token, direction);
      }
    }

    return {
      update(now) {
        known = { ...now };
        stacks.update(known);
        show();
      },

      select(now) {
        chosen = now;
        if (known && rows.length) {
          light();
          if (isKept()) {
            reveal(chosen.token, chosen.direction);
          }
        }
      },

      weightsCame: light,

      svg() {
        const MARGIN = 10;
        const TITLE = 20;
        const GAP = 8; // between queries and keys, where they are two texts
        const style = window.getComputedStyle(place);
        const read = (name) => style.getPropertyValue("--av-" + name).trim();
        const width = rows[0].at.flow.clientWidth + 2 * MARGIN;
        const texts = ({ at, by }) => (at === by ? [at] : [at, by]);
        const heights = rows.map((row) =>
          texts(row).reduce((sum, { flow }) => sum + flow.scrollHeight + GAP, TITLE - GAP)
        );
        const height = heights.reduce((sum, one) => sum + one, 2 * MARGIN);
        const pen = svgPen(width, height, read("surface"));
        const text = { size: 12, align: "left", bold: false, colour: read("text") };
        const far = other(marked.direction);
        rows.forEach((row) => lightRow(row, far, row.found, 0, count(far)));
        let top = MARGIN;
        rows.forEach((row, i) => {
          const colour = read("head-" + row.hue);
          pen.box(MARGIN, top + 3, 9, 9, colour);
          pen.text(MARGIN + 14, top + 8, known.maps[row.head].name, { ...text, bold: true });
          let down = top + TITLE;
          for (const one of texts(row)) {
            const isNear = one === row[marked.direction];
            one.tokens.forEach((token, j) => {
              const x = token.offsetLeft + MARGIN;
              const y = token.offsetTop + down;
              if (one.levels[j]) {
                const opacity = (DARKEST * one.levels[j]) / LEVELS / 100;
                pen.box(x, y, token.offsetWidth, token.offsetHeight, colour, opacity);
              }
              const bold = isNear && j === marked.token;
              pen.text(x + 1, y + token.offsetHeight / 2, token.textContent, { ...text, bold });
            });
            down += one.flow.scrollHeight + GAP;
          }
          top += heights[i];
        });
        return pen.finish();
      },
    };
  };
})();
