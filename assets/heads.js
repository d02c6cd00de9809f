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
      return [section !== "roles", section !== "compare"];
    },

    addLeader(clicks, chosen) {
      const id = clicked();
      return id && !chosen.includes(id.head)
        ? [...chosen, id.head]
        : window.dash_clientside.no_update;
    },

    showWay(way, limits) {
      const display = (shown) => (shown ? "block" : "none");
      return [limits.compareHelp[way], display(way === "prompt"), display(way === "model"), null];
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
