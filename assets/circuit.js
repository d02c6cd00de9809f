// The circuit tab: its picture is shown, searched with the pointer, thinned out and saved here.
//
// The picture is SVG (viz/circuit.py). Its parts and edges tell by `data-` attributes how strong
// they are, what a hover says, and what a click chooses.

(function () {
  "use strict";

  const SETTLE_MS = 80;
  const RESIZE_MS = 400;
  const ABOVE = 160; // px of the window that the page's header and the tab's own tools take
  const LOWEST = 460; // px
  const NEAREST = 0.12; // of the whole picture, when zoomed in
  const FEW = 60; // edges that a large picture starts with
  const LARGE = 90; // edges
  const MAP_MS = 8000; // how long a head's map is waited for

  let strongest = Infinity; // so many edges are drawn
  let drawnOf = null; // what tells the picture from those of other circuits and layouts
  let opened = null; // the edge that is told of
  let seen = null; // the part of the picture that is seen: [x, y, width, height]
  let dragged = null;

  const skip = () => window.dash_clientside.no_update;

  function place() {
    return document.getElementById("circuit-picture");
  }

  function picture() {
    const element = place();
    return element && element.querySelector("svg");
  }

  function triggered() {
    return window.dash_clientside.callback_context.triggered_id;
  }

  function room() {
    const main = document.querySelector(".middle");
    const style = window.getComputedStyle(main);
    const taken = parseFloat(style.paddingLeft) + parseFloat(style.paddingRight);
    return {
      width: Math.round(main.clientWidth - taken - 60),
      height: Math.max(LOWEST, window.innerHeight - ABOVE),
      at: Date.now(),
    };
  }

  // --- which edges are drawn ---

  // The slider goes by the logarithm of how many edges are drawn.
  const countOf = (value, all) => Math.max(1, Math.round(Math.pow(all, value / 100)));
  const valueOf = (count, all) => (all > 1 ? (100 * Math.log(count)) / Math.log(all) : 100);

  function counted(svg) {
    const edges = svg.querySelectorAll(".circuit-edge").length;
    return [Math.min(strongest, edges), Number(svg.dataset.total), svg.dataset.unit];
  }

  function thinOut() {
    const svg = picture();
    if (!svg) {
      return "";
    }
    const show = (element, shown) => {
      element.style.display = shown ? "" : "none";
      return shown;
    };
    const names = new Set();
    for (const edge of svg.querySelectorAll(".circuit-edge")) {
      if (show(edge, Number(edge.dataset.rank) <= strongest)) {
        names.add(edge.dataset.source).add(edge.dataset.target);
      }
    }
    for (const port of svg.querySelectorAll(".circuit-port")) {
      show(port, Number(port.dataset.rank) <= strongest);
    }
    for (const part of svg.querySelectorAll(".circuit-part")) {
      show(part, names.has(part.dataset.name));
    }
    for (const look of svg.querySelectorAll(".circuit-look")) {
      show(look, names.has(look.dataset.source) && names.has(look.dataset.target));
    }
    const [shown, all, unit] = counted(svg);
    return shown ? shown.toLocaleString("en") + " of " + all.toLocaleString("en") + " " + unit : "";
  }

  // --- zoom ---

  function look(svg, box) {
    seen = box;
    svg.setAttribute("viewBox", box.join(" "));
  }

  function whole(svg) {
    return [0, 0, svg.width.baseVal.value, svg.height.baseVal.value];
  }

  function within(svg, [x, y, w, h]) {
    const [, , width, height] = whole(svg);
    const clamp = (value, most) => Math.min(Math.max(0, value), most);
    return [clamp(x, width - w), clamp(y, height - h), w, h];
  }

  function zoom(svg, event) {
    const [, , width, height] = whole(svg);
    const box = svg.getBoundingClientRect();
    const [px, py] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    const scale = Math.min(1, Math.max(NEAREST, (seen[2] / width) * Math.exp(event.deltaY / 400)));
    const [w, h] = [width * scale, height * scale];
    look(svg, within(svg, [seen[0] + px * (seen[2] - w), seen[1] + py * (seen[3] - h), w, h]));
  }

  function drag(svg, event) {
    const box = svg.getBoundingClientRect();
    const { x, y, from } = dragged;
    const moved = [((x - event.clientX) / box.width) * from[2], ((y - event.clientY) / box.height) * from[3]];
    dragged.far = dragged.far || Math.hypot(event.clientX - x, event.clientY - y) > 4;
    look(svg, within(svg, [from[0] + moved[0], from[1] + moved[1], from[2], from[3]]));
  }

  // --- what the pointer is on ---

  function tip() {
    let element = document.getElementById("circuit-tip");
    if (!element) {
      element = document.createElement("div");
      element.id = "circuit-tip";
      document.body.append(element);
    }
    return element;
  }

  function tell(lines, x, y) {
    const element = tip();
    const [first, ...rest] = lines.split("\n");
    const title = document.createElement("b");
    title.textContent = first;
    const more = rest.map((line) => {
      const row = document.createElement("div");
      row.textContent = line;
      return row;
    });
    element.replaceChildren(title, ...more);
    element.hidden = false;
    const { width, height } = element.getBoundingClientRect();
    element.style.left = Math.min(x + 14, window.innerWidth - width - 8) + "px";
    element.style.top = (y + 18 + height > window.innerHeight ? y - height - 10 : y + 18) + "px";
  }

  function near(svg, element) {
    const { name, source, target } = element.dataset;
    const names = new Set(name ? [name] : [source, target]);
    for (const other of svg.querySelectorAll(".circuit-edge, .circuit-look")) {
      const data = other.dataset;
      const touches = name ? data.source === name || data.target === name : other === element;
      other.classList.toggle("near", touches);
      if (touches) {
        names.add(data.source).add(data.target);
      }
    }
    for (const part of svg.querySelectorAll(".circuit-part")) {
      part.classList.toggle("near", names.has(part.dataset.name));
    }
    svg.classList.add("pointing");
  }

  function leave(svg) {
    svg.classList.remove("pointing");
    tip().hidden = true;
  }

  const spot = (event) => event.target.closest(".circuit-edge, .circuit-look, .circuit-part");

  function choose(element) {
    const { heads, edge } = element.dataset;
    const set = window.dash_clientside.set_props;
    if (heads) {
      leave(picture());
      set("circuit-chosen", { data: { heads: heads.split(" "), at: Date.now() } });
    } else if (edge) {
      set("circuit-opened", { data: { edge, at: Date.now() } });
    }
  }

  function mark() {
    for (const edge of document.querySelectorAll("#circuit-picture .circuit-edge")) {
      edge.classList.toggle("opened", edge.dataset.edge === opened);
    }
  }

  // The map of a head comes a while after it was chosen, behind those that were there.
  function goToMap(head, until) {
    const [layer, index] = head.split(".");
    const name = "Attention of head L" + layer + "H" + index;
    const map = document.querySelector('#attention-grid [aria-label="' + name + '"] .main-svg');
    if (map) {
      map.closest(".map-card").scrollIntoView({ block: "nearest" });
    } else if (Date.now() < until) {
      window.setTimeout(() => goToMap(head, until), SETTLE_MS);
    }
  }

  function watch(svg) {
    svg.addEventListener("pointermove", (event) => {
      const element = spot(event);
      if (dragged && event.buttons) {
        drag(svg, event);
      } else if (element) {
        near(svg, element);
        tell(element.dataset.told, event.clientX, event.clientY);
      } else {
        leave(svg);
      }
    });
    svg.addEventListener("pointerleave", () => leave(svg));
    svg.addEventListener("pointerdown", (event) => {
      dragged = { x: event.clientX, y: event.clientY, from: seen, far: false };
    });
    svg.addEventListener("click", (event) => {
      const element = spot(event);
      if (element && !(dragged && dragged.far)) {
        choose(element);
      }
      dragged = null;
    });
    svg.addEventListener("dblclick", () => look(svg, whole(svg)));
    // A plain wheel scrolls the page.
    svg.addEventListener("wheel", (event) => {
      if (event.ctrlKey || event.metaKey) {
        event.preventDefault();
        zoom(svg, event);
      }
    }, { passive: false });
    svg.addEventListener("focusin", (event) => {
      const element = spot(event);
      if (element) {
        const box = element.getBoundingClientRect();
        near(svg, element);
        tell(element.dataset.told, box.left, box.bottom);
      }
    });
    svg.addEventListener("focusout", () => leave(svg));
    svg.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        choose(spot(event));
      }
    });
  }

  function put(svgText) {
    const parsed = new DOMParser().parseFromString(svgText, "image/svg+xml");
    const svg = document.importNode(parsed.documentElement, true);
    place().replaceChildren(svg);
    look(svg, whole(svg));
    watch(svg);
    mark();
  }

  // A large circuit starts with its strongest edges.
  function start(of) {
    if (JSON.stringify(of) === drawnOf) {
      return;
    }
    drawnOf = JSON.stringify(of);
    const all = picture().querySelectorAll(".circuit-edge").length;
    strongest = all > LARGE ? FEW : Infinity;
    const value = all > LARGE ? valueOf(FEW, all) : 100;
    window.dash_clientside.set_props("circuit-threshold", { value });
  }

  // Another size of the window is another room for the picture, which is then laid out anew.
  let resizing = null;
  window.addEventListener("resize", () => {
    window.clearTimeout(resizing);
    resizing = window.setTimeout(() => {
      if (picture()) {
        window.dash_clientside.set_props("circuit-room", { data: room() });
      }
    }, RESIZE_MS);
  });

  // --- files ---

  // What viz.circuit_legend.shown says of a picture.
  function sayCount(svg) {
    const [shown, all, unit] = counted(picture());
    const numbers = [shown, all].map((n) => n.toLocaleString("en"));
    const few = "Drawn: the strongest " + numbers[0] + " of " + numbers[1] + " " + unit + ".";
    svg.querySelector(".circuit-count").textContent =
      shown === all ? "All " + numbers[0] + " " + unit + " are drawn." : few;
  }

  // The picture as it is seen but for the zoom: without what the pointer needs, and with what it
  // is of above.
  function bare() {
    const svg = picture();
    if (!svg) {
      return null;
    }
    const copy = svg.cloneNode(true);
    const above = Number(svg.querySelector(".circuit-heading").dataset.height);
    const [, , width, height] = whole(svg);
    copy.setAttribute("viewBox", [0, -above, width, height + above].join(" "));
    copy.setAttribute("height", height + above);
    copy.removeAttribute("class");
    sayCount(copy);
    for (const element of copy.querySelectorAll(".hit, [style*='display: none']")) {
      element.remove();
    }
    for (const element of copy.querySelectorAll("[data-told]")) {
      ["data-told", "data-heads", "role", "tabindex"].forEach((name) => element.removeAttribute(name));
    }
    return new XMLSerializer().serializeToString(copy);
  }

  async function fetchFile(of, kind, key) {
    const answer = await window.fetch("/export/" + of + "/" + kind, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ key }),
    });
    if (!answer.ok) {
      throw new Error(answer.status === 400 ? await answer.text() : "The server could not make the file.");
    }
    window.attention.exports.save(await answer.blob(), of + "." + kind);
  }

  async function save(of, kind, kept) {
    try {
      if (kind === "png" || kind === "svg") {
        await window.attention.exports.saveSvg(bare(), kind, "circuit");
      } else {
        await fetchFile(of, kind, kept.key);
      }
    } catch (error) {
      const notice = { action: "show", id: "circuit-" + Date.now(), message: error.message, color: "red" };
      window.dash_clientside.set_props("notices", { sendNotifications: [notice] });
    }
  }

  const circuit = {
    showSource(source, task, limits) {
      const { sources, tasks } = limits.circuitHelp;
      const ofTask = source === "task";
      const ofFile = source === "file";
      const help = sources[source] + (ofTask ? " " + tasks[task] : "");
      const display = ofTask ? "block" : "none";
      const isSet = source !== "prompt";
      return [help, isSet, isSet, !isSet, !ofTask, !ofFile, !ofFile, display, display, ""];
    },

    // What is chosen is explained; what the method does not ask about cannot be chosen.
    explain(method, metric, baseline, limits) {
      const help = limits.circuitHelp;
      const patches = help.patching.includes(method);
      return [
        help.methods[method],
        help.metrics[metric],
        help.baselines[baseline],
        patches ? "Patch heads" : "Discover circuit",
        !help.takeFaithfulness.includes(method),
        !help.takeSteps.includes(method),
        patches,
        patches,
      ];
    },

    // A field that is left by clicking the button reports its value only after the click.
    request(clicks) {
      const settled = (resolve) => window.setTimeout(() => resolve([{ at: Date.now() }, "", null]), SETTLE_MS);
      return clicks ? new Promise(settled) : [skip(), skip(), skip()];
    },

    // Another result: it is laid out for the room there is, and what was shown meanwhile ends. An
    // edge that was told of need not be one of its edges.
    begin() {
      const set = window.dash_clientside.set_props;
      set("circuit-partial", { data: null });
      set("circuit-opened", { data: null });
      set("circuit-room", { data: room() });
    },

    // Put a new picture in its place, or only hide other edges of the one that stands.
    show(drawn, value) {
      if (triggered() === "circuit-threshold") {
        const all = picture() ? picture().querySelectorAll(".circuit-edge").length : 0;
        strongest = value >= 100 ? Infinity : countOf(value, all);
      } else if (drawn) {
        put(drawn.svg);
        start(drawn.of);
      } else {
        place().replaceChildren();
        drawnOf = null;
      }
      return thinOut();
    },

    markEdge(edge) {
      opened = edge ? edge.edge : null;
      mark();
    },

    closeEdge() {
      return null;
    },

    choose(chosen, heads) {
      if (!chosen) {
        return [skip(), skip()];
      }
      const added = chosen.heads.filter((head) => !heads.includes(head));
      goToMap(chosen.heads[0], Date.now() + MAP_MS);
      return [added.length ? [...heads, ...added] : skip(), "attention"];
    },

    // A row's id begins with its head: "5.3", "5.3#0".
    chooseRow(cell, heads) {
      const head = cell && cell.rowId ? cell.rowId.split("#")[0] : null;
      return head && !heads.includes(head) ? [...heads, head] : skip();
    },

    // Circuits and head patching are asked for by the same form; each result has its place.
    showMethod(method, limits) {
      const patches = limits.circuitHelp.patching.includes(method);
      return [patches, !patches];
    },

    openRow(cell) {
      return cell && cell.rowId ? { edge: cell.rowId, at: Date.now() } : skip();
    },

    exported(...values) {
      const pressed = window.dash_clientside.callback_context.triggered[0];
      const kept = values[values.length - 1];
      if (pressed && pressed.value && kept) {
        save(...triggered().split("-"), kept);
      }
    },

    // kept.asked has the fields that the result depends on.
    sayOutdated(kept, prompt, bos, ...values) {
      const { fields } = values.pop().circuitHelp;
      if (!kept) {
        return "";
      }
      const now = { prompt, bos };
      const labels = { prompt: "prompt", bos: "token in front" };
      fields.forEach(([name, label], i) => {
        now[name] = values[i] === null || values[i] === undefined ? "" : values[i];
        labels[name] = label;
      });
      const text = (value) => JSON.stringify(value === null ? "" : value);
      const differs = (name) => text(kept.asked[name]) !== text(now[name]);
      const changed = differs("pairs") ? ["pairs"] : Object.keys(kept.asked).filter(differs);
      if (!changed.length) {
        return "";
      }
      return "This result is of an earlier question; changed since: " + changed.map((name) => labels[name]).join(", ") + ".";
    },
  };

  window.dash_clientside = Object.assign({}, window.dash_clientside, { circuit });

  window.dashMantineFunctions = Object.assign({}, window.dashMantineFunctions, {
    // The likely tokens stay on offer, whatever is typed.
    allTokens({ options }) {
      return options;
    },
  });
})();
