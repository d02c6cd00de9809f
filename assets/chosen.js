// The layers x heads maps: a click chooses a head, chosen heads are outlined. No server is asked.
//
// A map says in `layout.meta.stack` of which stack its heads are (viz/heads.py, which draws the
// same outlines in figures that stand alone).

(function () {
  "use strict";

  const MAPS = ".graph .js-plotly-plot";
  const HALO = 3.5;
  const LINE = 1.75;

  let chosen = [];
  let looked = []; // the heads whose difference maps are shown: no part of the choice
  const watched = new WeakMap(); // plot -> whether its clicks look at a head, and choose none

  function colour(name) {
    return window.getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  // "cross:5.3" -> { stack: "cross", layer: 5, head: 3 }
  function parts(head) {
    const [stack, place] = head.includes(":") ? head.split(":") : ["", head];
    const [layer, index] = place.split(".").map(Number);
    return { stack, layer, head: index };
  }

  function outlines(stack, heads) {
    const path = heads
      .map(parts)
      .filter((head) => head.stack === stack)
      .sort((a, b) => a.layer - b.layer || a.head - b.head)
      .map(({ layer, head }) => `M${head - 0.5},${layer - 0.5}H${head + 0.5}V${layer + 0.5}H${head - 0.5}Z`)
      .join(" ");
    const drawn = (name, width) => ({ type: "path", path, line: { color: colour(name), width } });
    return path ? [drawn("--av-surface", HALO), drawn("--av-accent", LINE)] : [];
  }

  function told(shapes) {
    return JSON.stringify((shapes || []).map(({ path, line }) => [path, line.color]));
  }

  function outline(plot) {
    const { meta, shapes } = plot.layout || {};
    if (!meta || meta.stack === undefined) {
      return;
    }
    const wanted = outlines(meta.stack, watched.get(plot) ? looked : chosen);
    if (told(wanted) !== told(shapes)) {
      window.Plotly.relayout(plot, { shapes: wanted });
    }
  }

  function toggle(plot, { x, y }) {
    const { stack } = plot.layout.meta;
    const head = (stack ? stack + ":" : "") + y + "." + x;
    if (watched.get(plot)) {
      setLooked(toggled(looked, head));
    } else {
      window.dash_clientside.set_props("heads", { value: toggled(chosen, head) });
    }
  }

  function toggled(heads, head) {
    return heads.includes(head) ? heads.filter((other) => other !== head) : [...heads, head];
  }

  function setLooked(heads) {
    window.dash_clientside.set_props("compare-looked", { data: heads });
  }

  // A map that the server draws anew comes with the outlines of the time when it was asked for.
  function watch(id, looks) {
    const plot = document.querySelector(`#${id} .js-plotly-plot`);
    if (plot && plot.on && !watched.has(plot)) {
      watched.set(plot, looks);
      plot.on("plotly_afterplot", () => outline(plot));
      plot.on("plotly_click", (event) => toggle(plot, event.points[0]));
      outline(plot);
    } else if (!plot || !plot.on) {
      window.requestAnimationFrame(() => watch(id, looks));
    }
  }

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    chosen: {
      // Outlines them, and says how many they are.
      show(heads, shape) {
        chosen = heads || [];
        document.querySelectorAll(MAPS).forEach(outline);
        if (!shape) {
          return "";
        }
        const all = shape.stacks.reduce((sum, stack) => sum + stack.n_layers * stack.n_heads, 0);
        return chosen.length + " of " + all;
      },

      watch() {
        watch(window.dash_clientside.callback_context.triggered_id, false);
      },

      watchLooked() {
        watch(window.dash_clientside.callback_context.triggered_id, true);
      },

      showLooked(heads) {
        looked = heads || [];
        document.querySelectorAll(MAPS).forEach(outline);
      },

      // Show the difference map of one more head, before the others.
      look(head) {
        setLooked([...looked.filter((other) => other !== head), head]);
      },
    },
  });
})();
