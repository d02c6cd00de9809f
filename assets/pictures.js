// Which picture of the chosen heads' attention is shown. What the server sent of the heads is kept
// here, once, whichever picture draws it: so switching sends nothing again.
//
// A picture has a place in the page, named in `data-place`, and may have a drawer under the same name
// in `window.attention.drawers`: a function of (place, host) that returns { update(known, changed),
// select(chosen) }. It is made when it is first shown, and draws only while it is shown. Whatever has
// `data-pictures` is hidden while none of the pictures named there is shown. A picture that is not of the
// chosen heads hears of the switch by the document's event "picture".

(function () {
  "use strict";

  const PICTURES = "data-pictures";
  const drawers = new Map();

  // serial, order of heads, further maps of all heads together, names and labels of the positions
  // (and of an encoder's, the source), the position that is read, and of each head what the server
  // says of its map; `changed` are the heads that a drawer has not seen.
  const known = {
    serial: null, order: [], extra: [], names: [], labels: [], sides: {}, main: "", marked: null,
    images: [], maps: {},
  };
  const stale = new Map();
  let shown = null;
  let chosen = { token: null, direction: "at", side: "prompt" };
  let side = "prompt"; // whose positions the selected token is one of: the prompt's or another's

  function places() {
    return [...document.querySelectorAll("[" + PICTURES + "]")];
  }

  function isFor(element, picture) {
    return element.getAttribute(PICTURES).split(" ").includes(picture);
  }

  const host = {
    // Keep a token selected, or none: `token` is a position of a side, or null.
    select(token, direction, of) {
      const isOther = side !== (of || "prompt");
      side = of || "prompt";
      window.dash_clientside.set_props("token", { data: token });
      window.dash_clientside.set_props("direction", { value: direction });
      if (isOther) {
        pictures.select(token, direction); // which Dash does where position or direction changes
      }
    },

    // The weights of one token in one head, or null if they are not here: then they are asked for,
    // and `weightsCame` of the picture that is shown is called.
    weights(head, position, direction) {
      const { cells } = known.maps[head];
      if (cells.step === 1) {
        const n = cells.values[0].length;
        return window.attention.weights.ofToken(cells.values, position, direction, n);
      }
      const name = [head, position, direction].join();
      if (!fetched.has(name)) {
        ask(head, position, direction);
        return null;
      }
      const found = fetched.get(name);
      fetched.delete(name); // to become the one that goes last
      fetched.set(name, found);
      return found;
    },
  };

  // --- weights of long prompts, of which only pooled maps were sent ---

  const MOST_FETCHED = 400; // tokens and heads
  const ASK_MS = 30; // so that a pointer which hurries over tokens asks for few of them
  const fetched = new Map(); // "head,position,direction" -> weights, the least recently used first
  let wanted = null; // { token, direction, heads } of what is asked for next
  let timer = null;
  let pending = null; // what was asked for and has not come

  function ask(head, token, direction) {
    if (!wanted || wanted.token !== token || wanted.direction !== direction) {
      wanted = { token, direction, heads: [] };
    }
    if (!wanted.heads.includes(head)) {
      wanted.heads.push(head);
    }
    if (timer === null) {
      timer = window.setTimeout(send, ASK_MS);
    }
  }

  function send() {
    timer = null;
    const name = JSON.stringify([known.serial, wanted]);
    if (name !== pending) {
      pending = name;
      const data = { ...wanted, serial: known.serial, at: Date.now() };
      window.dash_clientside.set_props("weights-request", { data });
    }
    wanted = null;
  }

  function drawerOf(picture) {
    const make = window.attention.drawers[picture];
    if (!make) {
      return null; // drawn by Dash itself
    }
    if (!drawers.has(picture)) {
      drawers.set(picture, make(document.querySelector(`[data-place="${picture}"]`), host));
      stale.set(picture, new Set([...known.order, ...known.extra]));
    }
    return drawers.get(picture);
  }

  async function draw() {
    const drawer = drawerOf(shown);
    if (!drawer || known.serial === null) {
      return;
    }
    const changed = stale.get(shown);
    if (changed !== null) {
      stale.set(shown, null);
      await drawer.update(known, changed);
    }
    drawer.select(chosen); // another token may have been selected while it was hidden
  }

  function read({ name, figure }) {
    const { weights } = window.attention;
    const { scale, sides } = figure;
    const single = figure.strongest && weights.single(figure.strongest);
    figure.strongest = null; // so that the page's store does not keep the codes too
    return { name, figure, scale, sides, cells: weights.cells(figure.cells), single };
  }

  function take(message) {
    const kept = message.serial === known.serial ? known.maps : {};
    const { serial, order, extra, names, labels, sides, main, marked, images } = message;
    const maps = {};
    for (const head of [...order, ...extra]) {
      const sent = message.maps[head];
      maps[head] = sent ? read(sent) : kept[head];
    }
    if (serial !== known.serial) {
      fetched.clear();
      pending = null;
    }
    Object.assign(known, { serial, order, extra, names, labels, sides, main, marked, images, maps });
    for (const picture of drawers.keys()) {
      const before = stale.get(picture) || new Set();
      stale.set(picture, new Set([...before, ...Object.keys(message.maps)]));
    }
  }

  const pictures = {
    // Show the place of one picture, and the tools that mean something for it.
    choose(picture) {
      shown = picture;
      for (const element of places()) {
        element.hidden = !isFor(element, picture);
      }
      document.dispatchEvent(new CustomEvent("picture", { detail: picture }));
      return draw();
    },

    select(token, direction) {
      chosen = { token: token === undefined ? null : token, direction, side };
      const drawer = drawers.get(shown);
      if (drawer && known.serial !== null) {
        drawer.select(chosen);
      }
    },

    // message: { serial, token, direction, heads: { head: coded } }; without heads where the server
    // has come to draw other maps since it was asked.
    receiveWeights(message) {
      pending = null; // what did not come may be asked for again
      if (!message || message.serial !== known.serial || !Object.keys(message.heads).length) {
        return;
      }
      for (const [head, coded] of Object.entries(message.heads)) {
        const found = window.attention.weights.decode(coded)[0];
        fetched.set([head, message.token, message.direction].join(), found);
      }
      for (const name of [...fetched.keys()].slice(0, Math.max(0, fetched.size - MOST_FETCHED))) {
        fetched.delete(name);
      }
      const drawer = drawers.get(shown);
      if (drawer && drawer.weightsCame) {
        drawer.weightsCame();
      }
    },

    // message: { serial, order: heads, extra: further maps, names, labels, sides: { name: { names,
    // labels } }, marked, maps: { head: { name, figure } } }. Heads without a figure stand already and
    // stay as they are. A figure's `sides` say of what its queries and its keys are the positions:
    // "prompt", or a name of `sides`.
    receive(message) {
      if (message) {
        take(message);
        return draw();
      }
      return undefined;
    },
  };

  window.attention = Object.assign({ drawers: {} }, window.attention);

  // The picture that is shown as SVG, or one head's part of it; null if there is none. Pictures that
  // are not of the chosen heads are `others`, by their place: { svg() }.
  window.attention.shownSvg = async (head) => {
    const { others } = window.attention;
    const drawer = drawers.get(shown);
    if (others && others[shown]) {
      return others[shown].svg();
    }
    return drawer && drawer.svg && known.order.length ? drawer.svg(head) : null;
  };

  window.dash_clientside = Object.assign({}, window.dash_clientside, { pictures });
})();
