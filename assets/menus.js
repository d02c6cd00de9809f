// What the menus of the tabs export: the picture that is shown, one map of it, the data.

(function () {
  "use strict";

  const KINDS = { "export-png": "png", "export-svg": "svg", "export-csv": "csv", "export-json": "json", "export-html": "html" };

  // Where the figures of a tab stand, by what its menu exports.
  const PLACES = {
    attribution: "attribution-body", roles: "dossier-body", corpus: "corpus-body", compare: "compare-body",
    distribution: "corpus-histogram-place", studies: "studies-figures",
  };
  const NOTHING = "There is nothing to export yet";

  function tell(message, color) {
    const id = "export-" + Date.now();
    const notice = { action: "show", id, message, color, autoClose: 6000 };
    window.dash_clientside.set_props("notices", { sendNotifications: [notice] });
  }

  async function telling(exporting) {
    try {
      await exporting();
    } catch (error) {
      tell(error.message, "red");
    }
  }

  // Data and pages come from the server, which has every digit.
  async function fetchFile(address, asked, name) {
    const answer = await window.fetch("/export/" + address, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(asked),
    });
    if (!answer.ok) {
      throw new Error(answer.status === 400 ? await answer.text() : "The server could not make the file.");
    }
    window.attention.exports.save(await answer.blob(), name);
  }

  async function exported(kind, view, pages, head) {
    const isPicture = kind === "png" || kind === "svg";
    if (isPicture) {
      const { exports, shownSvg } = window.attention;
      const svg = await shownSvg(head);
      if (!svg) {
        throw new Error(NOTHING + (view.picture === "overview" ? "." : ": choose heads."));
      }
      await exports.saveSvg(svg, kind, "attention-" + (head || view.picture));
    } else if (view.picture === "overview" && !head && kind !== "html") {
      await fetchFile("table/overview/" + kind, { view }, "heads." + kind);
    } else {
      const name = (head ? "attention-" + head : "attention") + "." + kind;
      await fetchFile(kind, { view, pages, head: head || null }, name);
    }
  }

  // The figures of a tab that are in sight, as one picture.
  async function saveFigures(of, kind, name) {
    const { exports } = window.attention;
    const place = document.getElementById(PLACES[of]);
    const plots = [...place.querySelectorAll(".js-plotly-plot")].filter(
      (plot) => plot.offsetParent !== null && plot.data && plot.data.length
    );
    if (!plots.length) {
      const isTable = of === "attribution";
      throw new Error(isTable ? "There is no figure here; export the table instead." : NOTHING + ".");
    }
    const page = window.getComputedStyle(document.body).getPropertyValue("--av-page").trim();
    const svg = exports.together(await exports.figures(plots), place.clientWidth, page);
    await exports.saveSvg(svg, kind, name);
  }

  const menus = {
    exportPicture(...values) {
      const [view, pages] = values.slice(-2);
      const cause = window.dash_clientside.callback_context.triggered_id;
      const pressed = window.dash_clientside.callback_context.triggered[0];
      if (view && cause in KINDS && pressed && pressed.value) {
        telling(() => exported(KINDS[cause], view, pages, null));
      }
    },

    // asked: { head, kind }, by the menu of one map.
    exportMap(asked, view, pages) {
      if (asked && view) {
        telling(() => exported(asked.kind, view, pages, asked.head));
      }
    },

    exportPart(clicks, view, show, target, versus, roles, corpus, head, compare, studies) {
      const { triggered, triggered_id: id } = window.dash_clientside.callback_context;
      if (!triggered.length || !triggered[0].value) {
        return;
      }
      const attribution = view && { view, show, target, versus };
      const distribution = corpus && { ...corpus, head };
      const kept = { attribution, roles, corpus, distribution, compare, studies };
      telling(async () => {
        if (!kept[id.of]) {
          throw new Error(NOTHING + ".");
        }
        const name = kept[id.of].file || id.of;
        if (id.kind === "png" || id.kind === "svg") {
          await saveFigures(id.of, id.kind, name);
        } else {
          await fetchFile("table/" + id.of + "/" + id.kind, kept[id.of], name + "." + id.kind);
        }
      });
    },
  };

  window.dash_clientside = Object.assign({}, window.dash_clientside, { menus });
})();
