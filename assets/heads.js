// The part of the heads tab that needs no server.
// Every function here is a clientside callback registered by a panel of `app`.

(function () {
  "use strict";

  // The id of the one of several alike that was clicked; null when they were only put in place.
  function clicked() {
    const { triggered, triggered_id } = window.dash_clientside.callback_context;
    return triggered.length && triggered[0].value ? triggered_id : null;
  }

  const heads = {
    showSection(section) {
      return ["roles", "corpus", "compare"].map((name) => name !== section);
    },

    // The head last chosen is the one that is told about, unless another is picked.
    offerHeads(changes, chosen, offered, told) {
      const last = chosen.length ? chosen[chosen.length - 1] : null;
      const grew = chosen.length > (offered || []).length;
      const label = (head) => head.replace(/(\d+)\.(\d+)$/, "L$1H$2"); // "cross:5.3" -> "cross:L5H3"
      const data = chosen.map((head) => ({ value: head, label: label(head) }));
      return [data, !grew && chosen.includes(told) ? told : last];
    },

    addLeader(clicks, chosen) {
      const id = clicked();
      if (id && id.of === "js") {
        window.dash_clientside.chosen.look(id.head); // of a comparison: it is looked at
        return window.dash_clientside.no_update;
      }
      return id && !chosen.includes(id.head)
        ? [...chosen, id.head]
        : window.dash_clientside.no_update;
    },

    showWay(way, shape, limits) {
      const display = (shown) => (shown ? "block" : "none");
      const decodes = shape && shape.stacks.length > 1;
      return [
        limits.compareHelp[way],
        display(way === "prompt"),
        display(way === "prompt" && decodes),
        display(way === "model"),
        null,
      ];
    },

    offerModels(models) {
      return models || [];
    },

    useRole(clicks, dossier) {
      const id = clicked();
      return id && dossier ? dossier.leaders[id.role] : window.dash_clientside.no_update;
    },
  };

  window.dash_clientside = Object.assign({}, window.dash_clientside, { heads });
})();
