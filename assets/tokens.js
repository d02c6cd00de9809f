// The strip of the prompt's tokens: buttons, one of which is the position that is read.

(function () {
  "use strict";

  let shown = null;

  function strip() {
    return document.getElementById("token-strip");
  }

  function button(tokens, i) {
    const element = document.createElement("button");
    element.type = "button";
    element.className = "token " + tokens.kinds[i];
    element.textContent = tokens.labels[i];
    element.title = "position " + i + ", id " + tokens.ids[i];
    element.dataset.position = i;
    return element;
  }

  function mark(position) {
    for (const token of strip().children) {
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
    // list: { labels, kinds, ids }, one of each for a position.
    show(list, position) {
      if (list && list !== shown) {
        shown = list;
        strip().replaceChildren(...list.labels.map((_, i) => button(list, i)));
      }
      mark(position);
      window.requestAnimationFrame(reveal);
    },
  };

  window.dash_clientside = Object.assign({}, window.dash_clientside, { tokens });

  function ofToken(event) {
    return event.target.closest && event.target.closest("#token-strip .token");
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
      Home: token.parentElement.firstElementChild,
      End: token.parentElement.lastElementChild,
    };
    if (!token || !(event.key in goals)) {
      return;
    }
    event.preventDefault();
    if (goals[event.key]) {
      goals[event.key].focus();
    }
  });
})();
