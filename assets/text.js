// The prompt as flowing text, once for each head: the tokens that a selected one looks at, or that
// look at it, light up by weight. The token that is pointed at is the selected one, unless one is
// kept by a click; without either it is the one whose prediction is read.
//
// Pointing costs only what changes: of thousands of tokens those are touched that are in sight, or
// nearly so, and whose shade becomes another.

(function () {
  "use strict";

  const HUES = 7;
  const LEVELS = 20; // of shade
  const DARKEST = 70; // percent of a head's hue behind the strongest token: text stays readable
  const MOST_TOKENS = 16384; // over all rows: more would make the page slow
  const MOST_ROWS = 12;
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
    const { weights, svgPen } = window.attention;
    const note = element("div", "text-note");
    const body = element("div", "text-rows");
    const tip = element("div", "text-tip");
    body.tabIndex = 0;
    body.setAttribute("role", "group");
    body.setAttribute("aria-label", "Prompt by head. Arrow keys move the selected token");
    tip.hidden = true;
    place.replaceChildren(note, body, tip);

    let known = null;
    let chosen = { token: null, direction: "at" };
    let hovered = null; // position
    let rows = []; // { head, hue, row, keys, flow, tokens, levels, found }

    // --- building ---

    function flowOf(labels) {
      const flow = element("div", "text-flow");
      labels.forEach((label, i) => {
        const token = element("span", "text-token", label);
        token.dataset.i = i;
        flow.append(token);
        if (label.endsWith(NEWLINE)) {
          flow.append(document.createElement("br"));
        }
      });
      return flow;
    }

    function build() {
      const n = known.labels.length;
      const heads = known.order.slice(0, Math.max(1, Math.min(MOST_ROWS, Math.floor(MOST_TOKENS / n))));
      const pattern = flowOf(known.labels);
      rows = heads.map((head, i) => {
        const row = element("section", "text-row");
        const hue = i % HUES;
        row.style.setProperty("--hue", `var(--av-head-${hue})`);
        const title = element("div", "text-title");
        const keys = element("span", "text-keys");
        title.append(element("span", "text-head", known.maps[head].name), keys);
        const flow = pattern.cloneNode(true);
        row.append(title, flow);
        flow.addEventListener("scroll", () => scrolled(flow), { passive: true });
        const tokens = [...flow.getElementsByClassName("text-token")];
        return { head, hue, row, keys, flow, tokens, levels: new Uint8Array(n), found: null };
      });
      body.style.setProperty("--rows", rows.length);
      body.replaceChildren(...rows.map(({ row }) => row));
      note.textContent =
        heads.length < known.order.length
          ? "The first " + heads.length + " of " + known.order.length + " heads."
          : "";
    }

    // All rows show the same lines.
    function scrolled(by) {
      for (const { flow } of rows) {
        if (flow !== by && flow.scrollTop !== by.scrollTop) {
          flow.scrollTop = by.scrollTop;
        }
      }
      soon();
    }

    let tops = null; // how far down each token stands, in every row

    // The tokens that are in sight, and as many again above and below: from, without end.
    function inSight() {
      const { flow, tokens } = rows[0];
      tops = tops || tokens.map((token) => token.offsetTop);
      const firstFrom = (y) => {
        let [low, high] = [0, tops.length];
        while (low < high) {
          const middle = (low + high) >> 1;
          [low, high] = tops[middle] < y ? [middle + 1, high] : [low, middle];
        }
        return low;
      };
      const height = flow.clientHeight;
      return [firstFrom(flow.scrollTop - height), firstFrom(flow.scrollTop + 2 * height)];
    }

    // --- lighting up ---

    function selected() {
      const n = known.labels.length;
      const kept = chosen.token !== null && chosen.token < n ? chosen.token : null;
      if (kept !== null) {
        return kept;
      }
      return hovered !== null ? hovered : Math.min(known.marked === null ? n - 1 : known.marked, n - 1);
    }

    function shade(hue, level) {
      if (!level) {
        return "";
      }
      const share = Math.round((DARKEST * level) / LEVELS);
      return `color-mix(in srgb, var(--av-head-${hue}) ${share}%, transparent)`;
    }

    let marked = null;

    function light() {
      const token = selected();
      const [from, end] = inSight();
      for (const row of rows) {
        const found = host.weights(row.head, token, chosen.direction);
        row.found = found;
        lightRow(row, found, from, end);
        nameStrongest(row, found);
        if (marked !== null && marked < row.tokens.length) {
          row.tokens[marked].classList.remove("selected");
        }
        row.tokens[token].classList.add("selected");
      }
      marked = token;
      const kept = chosen.token !== null;
      body.classList.toggle("kept", kept);
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

    function lightRow({ head, hue, tokens, levels }, found, from, end) {
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

    function nameStrongest({ head, keys }, found) {
      if (!found) {
        keys.replaceChildren("…");
        return;
      }
      const best = weights.strongest(found, NAMED, known.maps[head].scale);
      keys.replaceChildren(
        ...best.map((i) => {
          const button = element("button", "text-key", known.labels[i] + " " + weights.exact(found[i]));
          button.type = "button";
          button.title = "position " + i + ": show it";
          button.addEventListener("click", () => reveal(i));
          return button;
        })
      );
    }

    function reveal(i) {
      const { flow, tokens } = rows[0];
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

    function positionOf(event) {
      const token = event.target.closest && event.target.closest(".text-token");
      return token ? Number(token.dataset.i) : null;
    }

    function showTip(event, position) {
      tip.hidden = position === null || chosen.token === null;
      if (!tip.hidden) {
        const said = rows.map(({ head, found }) => {
          const weight = found ? weights.exact(found[position]) : "…";
          return known.maps[head].name + " " + weight;
        });
        tip.textContent = position + " " + known.labels[position] + "\n" + said.join("\n");
        tip.style.left = Math.min(event.clientX + 12, window.innerWidth - 150) + "px";
        tip.style.top = event.clientY + 14 + "px";
      }
    }

    body.addEventListener("mousemove", (event) => {
      const position = positionOf(event);
      showTip(event, position);
      // Between two tokens the last one stays lit: no flicker.
      if (position !== null && position !== hovered) {
        hovered = position;
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
      const position = positionOf(event);
      if (position !== null) {
        tip.hidden = true;
        host.select(position === chosen.token ? null : position, chosen.direction);
      }
    });

    // The token above or below, by where it stands.
    function neighbour(from, step) {
      const { tokens } = rows[0];
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
      const at = selected();
      const last = known.labels.length - 1;
      const goals = {
        ArrowRight: () => Math.min(at + 1, last),
        ArrowLeft: () => Math.max(at - 1, 0),
        ArrowDown: () => neighbour(at, 1),
        ArrowUp: () => neighbour(at, -1),
        Home: () => 0,
        End: () => last,
        Escape: () => null,
      };
      if (event.key in goals && event.target === body) {
        event.preventDefault();
        const goal = goals[event.key]();
        chosen = { ...chosen, token: goal }; // shown at once, not when the page has heard of it
        light();
        if (goal !== null) {
          reveal(goal);
        }
        host.select(goal, chosen.direction);
      }
    });

    new ResizeObserver(() => {
      tops = null;
      if (known && rows.length) {
        soon();
      }
    }).observe(body);

    let built = ""; // heads and labels that the rows were made of

    return {
      update(now) {
        known = { ...now };
        hovered = null;
        const wanted = JSON.stringify([known.order.map((head) => known.maps[head].name), known.labels]);
        if (wanted !== built) {
          built = wanted;
          marked = null;
          tops = null;
          build();
        }
        if (rows.length) {
          light();
          reveal(selected());
        }
      },

      select(now) {
        chosen = now;
        if (known && rows.length) {
          light();
          if (chosen.token !== null && chosen.token < known.labels.length) {
            reveal(chosen.token);
          }
        }
      },

      weightsCame: light,

      svg() {
        const MARGIN = 10;
        const TITLE = 20;
        const style = window.getComputedStyle(place);
        const read = (name) => style.getPropertyValue("--av-" + name).trim();
        const width = rows[0].flow.clientWidth + 2 * MARGIN;
        const heights = rows.map(({ flow }) => flow.scrollHeight + TITLE);
        const height = heights.reduce((sum, one) => sum + one, 2 * MARGIN);
        const pen = svgPen(width, height, read("surface"));
        const text = { size: 12, align: "left", bold: false, colour: read("text") };
        rows.forEach((row) => lightRow(row, row.found, 0, row.tokens.length));
        let top = MARGIN;
        rows.forEach(({ head, hue, flow, tokens, levels }, i) => {
          const colour = read("head-" + hue);
          pen.box(MARGIN, top + 3, 9, 9, colour);
          pen.text(MARGIN + 14, top + 8, known.maps[head].name, { ...text, bold: true });
          tokens.forEach((token, j) => {
            const x = token.offsetLeft + MARGIN;
            const y = token.offsetTop + top + TITLE;
            if (levels[j]) {
              const opacity = (DARKEST * levels[j]) / LEVELS / 100;
              pen.box(x, y, token.offsetWidth, token.offsetHeight, colour, opacity);
            }
            pen.text(x + 1, y + token.offsetHeight / 2, known.labels[j], { ...text, bold: j === marked });
          });
          top += heights[i];
        });
        return pen.finish();
      },
    };
  };
})();
