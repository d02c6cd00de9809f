// Lists of terms: a head in one can be added to the chosen heads, a token of a pair opened.

(function () {
  "use strict";

  document.addEventListener("click", (event) => {
    // Pictures say in their elements' data too which token they show: only buttons open one.
    const element = event.target.closest("button[data-head], button[data-token]");
    if (!element) {
      return;
    }
    const { head, token } = element.dataset;
    const [store, said] =
      head === undefined ? ["token-open", { position: Number(token) }] : ["add-head", { head }];
    window.dash_clientside.set_props(store, { data: { ...said, at: Date.now() } });
  });

  const attribution = {
    addHead(added, chosen) {
      const known = !added || chosen.includes(added.head);
      return known ? window.dash_clientside.no_update : [...chosen, added.head];
    },

    // The lens follows one token, heads raise and lower all of them.
    showTokenFields(show) {
      return [show === "tokens", show !== "direct"];
    },

    close() {
      return true;
    },
  };

  window.dash_clientside = Object.assign({}, window.dash_clientside, { attribution });
})();
