// What the menus of the attention tab export: the picture that is shown, one map of it, the data.

(function () {
  "use strict";

  const KINDS = { "export-png": "png", "export-svg": "svg", "export-csv": "csv", "export-json": "json", "export-html": "html" };

  function tell(message, color) {
    const id = "export-" + Date.now();
    const notice = { action: "show", id, message, color, autoClose: 6000 };
    window.dash_clientside.set_props("notices", { sendNotifications: [notice] });
  }

  // Data and pages come from the server, which has every digit.
  async function fetchFile(kind, view, pages, head) {
    const name = head ? "attention-" + head : "attention";
    const answer = await window.fetch("/export/" + kind, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ view, pages, head: head || null }),
    });
    if (!answer.ok) {
      throw new Error(answer.status === 400 ? await answer.text() : "The server could not make the file.");
    }
    window.attention.exports.save(await answer.blob(), name + "." + kind);
  }

  async function exported(kind, view, pages, head) {
    try {
      if (kind === "png" || kind === "svg") {
        const { exports, shownSvg } = window.attention;
        const svg = await shownSvg(head);
        if (!svg) {
          throw new Error("There is nothing to export yet: choose heads.");
        }
        const name = "attention-" + (head || view.picture);
        await exports.saveSvg(svg, kind, name);
      } else {
        await fetchFile(kind, view, pages, head);
      }
    } catch (error) {
      tell(error.message, "red");
    }
  }

  const menus = {
    exportPicture(...values) {
      const [view, pages] = values.slice(-2);
      const cause = window.dash_clientside.callback_context.triggered_id;
      const pressed = window.dash_clientside.callback_context.triggered[0];
      if (view && cause in KINDS && pressed && pressed.value) {
        exported(KINDS[cause], view, pages, null);
      }
    },

    // asked: { head, kind }, by the menu of one map.
    exportMap(asked, view, pages) {
      if (asked && view) {
        exported(asked.kind, view, pages, asked.head);
      }
    },
  };

  window.dash_clientside = Object.assign({}, window.dash_clientside, { menus });
})();
