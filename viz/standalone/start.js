// Puts the page of a file that stands alone together: its controls, and one picture at a time.

(async function () {
  "use strict";

  const PICTURES = { matrix: "Matrix", lines: "Lines", text: "Text" };
  const DIRECTIONS = { at: "looks at", by: "is looked at by" };
  const SINKS = { hide: "first token hidden", renormalise: "renormalised without first token" };
  const about = JSON.parse(document.getElementById("about").textContent);
  const { weights, exports } = window.attention;
  const dark = about.dark === null ? window.matchMedia("(prefers-color-scheme: dark)").matches : about.dark;
  const drawers = {};
  const state = { picture: about.picture, token: about.token, direction: about.direction, side: "prompt" };

  function setTheme(isDark) {
    document.documentElement.dataset.mantineColorScheme = isDark ? "dark" : "light";
    document.documentElement.style.colorScheme = isDark ? "dark" : "light";
  }

  function element(name, className, text) {
    const made = document.createElement(name);
    made.className = className;
    made.textContent = text || "";
    return made;
  }

  setTheme(dark);
  const page = document.getElementById("page");
  const status = element("p", "note", "Unpacking the weights …");
  page.append(element("h1", "title", about.title), status);

  function positions(side) {
    return window.attention.ofSide(about, side).labels.length;
  }

  const maps = {};
  for (const map of about.maps) {
    const packed = document.querySelector(`script[data-head="${map.head}"]`);
    const [nQueries, nKeys] = map.sides.map(positions);
    const values = await weights.unpack(packed.textContent, nQueries, nKeys, map.causal, map.unit);
    packed.remove();
    maps[map.head] = { ...map, cells: { query: 0, key: 0, step: 1, values } };
  }
  const known = {
    serial: 0,
    order: about.maps.filter((map) => !map.of_all).map((map) => map.head),
    extra: about.maps.filter((map) => map.of_all).map((map) => map.head), // of all heads together
    names: about.names,
    labels: about.labels,
    sides: about.sides,
    main: about.main,
    marked: about.marked,
    note: SINKS[about.sink] || "",
    threshold: about.threshold * about.unit, // weights below it are not shown
    value: about.value,
    maps,
  };

  const host = {
    select(token, direction, side) {
      Object.assign(state, { token, direction, side });
      directions.show(direction);
      drawers[state.picture].select(state);
    },

    weights(head, position, direction) {
      const nKeys = positions(maps[head].sides[1]);
      const found = weights.ofToken(maps[head].cells.values, position, direction, nKeys);
      return found.map((weight) => (weight >= known.threshold ? weight : NaN));
    },

    scale() {
      return about.scales[document.documentElement.dataset.mantineColorScheme];
    },
  };

  // --- controls ---

  function choice(label, words, value, chosen) {
    const group = element("div", "choice");
    group.setAttribute("role", "radiogroup");
    group.setAttribute("aria-label", label);
    const buttons = Object.entries(words).map(([name, word]) => {
      const button = element("button", "", word);
      button.type = "button";
      button.setAttribute("role", "radio");
      button.addEventListener("click", () => {
        show(name);
        chosen(name);
      });
      button.dataset.name = name;
      group.append(button);
      return button;
    });
    const show = (name) =>
      buttons.forEach((button) => button.setAttribute("aria-checked", String(button.dataset.name === name)));
    show(value);
    return { group, show };
  }

  function threshold() {
    const label = element("label", "field", about.value === "norm" ? "Norms ≥ " : "Weights ≥ ");
    const slider = document.createElement("input");
    const read = (value) => (about.unit === 1 ? String(value) : weights.exact(value * about.unit));
    const reading = element("span", "reading", read(about.threshold));
    Object.assign(slider, { type: "range", min: 0, max: 0.5, step: 0.01, value: about.threshold });
    slider.addEventListener("change", () => {
      known.threshold = Number(slider.value) * about.unit;
      reading.textContent = read(Number(slider.value));
      setThreshold();
      Object.values(drawers).forEach((drawer) => (drawer.stale = true));
      draw();
    });
    label.append(slider, reading);
    return label;
  }

  function setThreshold() {
    for (const map of Object.values(maps)) {
      map.scale.threshold = known.threshold;
    }
  }

  function downloads() {
    const group = element("div", "choice");
    for (const kind of ["png", "svg"]) {
      const button = element("button", "", kind.toUpperCase());
      button.type = "button";
      button.title = "Save this picture as " + kind.toUpperCase();
      button.addEventListener("click", () =>
        exports.saveSvg(drawers[state.picture].svg(), kind, "attention-" + state.picture)
      );
      group.append(button);
    }
    return group;
  }

  function themes() {
    const button = element("button", "theme", "◐");
    button.type = "button";
    button.title = "Switch between light and dark";
    button.addEventListener("click", () => {
      setTheme(document.documentElement.dataset.mantineColorScheme !== "dark");
      Object.values(drawers).forEach((drawer) => (drawer.stale = true));
      draw();
    });
    return button;
  }

  // --- pictures ---

  const places = {};

  function draw() {
    for (const [name, place] of Object.entries(places)) {
      place.hidden = name !== state.picture;
    }
    directions.group.hidden = state.picture !== "text"; // elsewhere where one clicks tells
    const drawer = (drawers[state.picture] ||= {
      stale: true,
      ...window.attention.drawers[state.picture](places[state.picture], host),
    });
    if (drawer.stale) {
      drawer.stale = false;
      drawer.update(known);
    }
    drawer.select(state);
  }

  setThreshold();
  const pictures = choice("How attention is drawn", PICTURES, state.picture, (name) => {
    state.picture = name;
    draw();
  });
  const directions = choice("What is shown of the selected token", DIRECTIONS, state.direction, (name) => {
    state.direction = name;
    draw();
  });
  const bar = element("div", "toolbar");
  bar.append(pictures.group, threshold(), directions.group, element("span", "grow"), downloads(), themes());
  for (const [name, className] of [["matrix", "map-grid"], ["lines", "lines"], ["text", "text"]]) {
    places[name] = element("div", className);
  }
  const run = about.ablated ? "ablated run" : "clean run";
  const source = about.sides.source ? about.sides.source.labels.length + " tokens of the source" : "";
  const least = about.value + "s below " + about.smallest + " are shown as 0";
  const parts = [about.labels.length + " tokens", source, run, known.note, least];
  status.textContent = parts.filter(Boolean).join(" · ");
  page.append(bar, ...Object.values(places));
  draw();
  document.documentElement.dataset.ready = "yes";
})();
