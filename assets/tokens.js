// The strip of the prompt's tokens: buttons, one of which is the position that is read.

(function () {
  "use strict";

  let shown = null;

  function strip() {
    return document.getElementById("token-strip");
  }

  function token(tag, tokens, i) {
    const element = document.createElement(tag);
    const segment = tokens.segments && tokens.segments[i] ? " second" : "";
    element.className = "token " + tokens.kinds[i] + segment;
    element.textContent = tokens.labels[i];
    element.title = "position " + i + ", id " + tokens.ids[i];
    return element;
  }

  function button(tokens, i) {
    const element = token("button", tokens, i);
    element.type = "button";
    element.dataset.position = i;
    return element;
  }

  // What the encoder reads, in front of the decoder's tokens: no prediction is read there.
  function source(tokens) {
    const arrow = document.createElement("span");
    arrow.className = "token-arrow";
    arrow.textContent = "→";
    arrow.title = "what the decoder has written";
    const spans = tokens.labels.map((_, i) => token("span", tokens, i));
    spans.forEach((span) => {
      span.classList.add("of-source");
      span.title = "source, " + span.title;
    });
    return [...spans, arrow];
  }

  function mark(position) {
    for (const token of strip().querySelectorAll("button.token")) {
      const read = Number(token.dataset.position) === position;
      token.classList.toggle("read", read);
      token.tabIndex = read ? 0 : -1;
      token.setAttribute("aria-pressed", read);
    }
  }

  // A long prompt scrolls inside its strip: keep the token that is read in sight.
  function reveal() {
    const place = strip();
    const read = place.querySelector(".token.read");
    if (!read) {
      return;
    }
    const top = read.offsetTop - place.offsetTop;
    const hidden =
      top < place.scrollTop || top + read.offsetHeight > place.scrollTop + place.clientHeight;
    if (hidden) {
      place.scrollTop = top - (place.clientHeight - read.offsetHeight) / 2;
    }
  }

  const tokens = {
    // list: { labels, kinds, ids, segments }, one of each for a position; source: null, or the same
    // of the positions of an encoder.
    show(list, position) {
      if (list && list !== shown) {
        shown = list;
        const before = list.source ? source(list.source) : [];
        strip().replaceChildren(...before, ...list.labels.map((_, i) => button(list, i)));
      }
      mark(position);
      window.requestAnimationFrame(reveal);
    },
  };

  window.dash_clientside = Object.assign({}, window.dash_clientside, { tokens });

  function ofToken(event) {
    return event.target.closest && event.target.closest("#token-strip button.token");
  }

  document.addEventListener("click", (event) => {
    const token = ofToken(event);
    if (token) {
      const position = Number(token.dataset.position);
      window.dash_clientside.set_props("position", { data: position });
      window.dash_clientside.set_props("token-open", { data: { position, at: Date.now() } });
    }
  });

  // The tokens are one stop of the Tab key; arrows move among them.
  document.addEventListener("keydown", (event) => {
    const token = ofToken(event);
    const goals = token && {
      ArrowRight: token.nextElementSibling,
      ArrowLeft: token.previousElementSibling,
      Home: token.parentElement.querySelector("button.token"),
      End: token.parentElement.lastElementChild,
    };
    if (!token || !(event.key in goals)) {
      return;
    }
    event.preventDefault();
    if (goals[event.key] && goals[event.key].matches("button.token")) {
      goals[event.key].focus();
    }
  });
})();
