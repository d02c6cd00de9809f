// The part of the page that needs no server: gathering the view, pure view toggles, keys.
// Every function here is a clientside callback registered by a panel of `app`.

(function () {
  "use strict";

  const HEADS_SEPARATOR = ".";
  const MAIN_STACK = "main";
  const SETTLE_MS = 80;
  const QUOTED = 120;
  const ALIVE_MS = 4000;
  const SCENE = "tabletop:"; // what the examples that come with a picture are called

  function skip() {
    return window.dash_clientside.no_update;
  }

  function triggered() {
    return window.dash_clientside.callback_context.triggered;
  }

  function triggeredId() {
    return window.dash_clientside.callback_context.triggered_id;
  }

  function same(a, b) {
    return JSON.stringify(a) === JSON.stringify(b);
  }

  // Whether a kept study is of the texts and pictures that are shown.
  function sameTexts(kept, prompt, second, images) {
    const samePictures = same(kept.images || [], images || []);
    return kept.prompt === prompt && kept.second === (second || "") && samePictures;
  }

  function toggled(chosen, head) {
    return chosen.includes(head) ? chosen.filter((other) => other !== head) : [...chosen, head];
  }

  // "L5H3" -> "5.3", "cross:L5H3" -> "cross:5.3"
  function shortName(head) {
    const match = /^([a-z_]+:)?L(\d+)H(\d+)$/.exec(head || "");
    return match ? (match[1] || "") + match[2] + HEADS_SEPARATOR + match[3] : null;
  }

  // What stands before the heads of a stack; nothing for the main one.
  function prefix(stack) {
    return stack && stack !== MAIN_STACK ? stack + ":" : "";
  }

  const page = {
    // The view is what the controls hold; it is known once a model is.
    gather(...values) {
      const old = values.pop();
      const limits = values.pop();
      const view = {};
      limits.fields.forEach((field, i) => {
        view[field] = values[i] === undefined ? null : values[i];
      });
      if (view.model === null || view.prompt === null || same(view, old)) {
        return [skip(), ...limits.tabs.map(skip)];
      }
      // A field that is being edited may be empty for a moment.
      if (old && (view.max_heads === "" || view.max_heads === null)) {
        view.max_heads = old.max_heads;
      }
      page.changes = (page.changes || 0) + 1;
      return [view, ...limits.tabs.map((tab) => (tab === view.tab ? page.changes : skip()))];
    },

    readFragment(tab) {
      if (!page.listening) {
        page.listening = true;
        window.addEventListener("hashchange", () => {
          window.dash_clientside.set_props("fragment-in", { data: window.location.hash || "#" });
        });
        // Other tabs may share the connection, so its end does not tell that this page has gone.
        window.addEventListener("pagehide", (event) => {
          if (!event.persisted) {
            navigator.sendBeacon("/leave/" + tab);
          }
        });
      }
      return window.location.hash || "#";
    },

    writeFragment(fragment) {
      const bare = window.location.pathname + window.location.search;
      window.history.replaceState(null, "", fragment ? bare + "#" + fragment : bare);
    },

    share(clicks, fragment) {
      if (!clicks) {
        return skip();
      }
      const say = (message, color) => [
        { action: "show", id: "share-" + clicks, message, color, autoClose: 4000 },
      ];
      if (!fragment) {
        return say("The prompt is too long to be put into a link.", "orange");
      }
      const link = window.location.href.split("#")[0] + "#" + fragment;
      if (!navigator.clipboard) {
        return say("Copy the link from the address bar: it always holds this view.", "blue");
      }
      return navigator.clipboard.writeText(link).then(
        () => say("The link to this view is copied.", "teal"),
        () => say("Copy the link from the address bar: it always holds this view.", "blue")
      );
    },

    toggleDark(clicks, dark) {
      if (!clicks) {
        const wanted = window.matchMedia("(prefers-color-scheme: dark)").matches;
        return dark === null || dark === undefined ? wanted : skip();
      }
      return !dark;
    },

    applyDark(dark) {
      document.documentElement.style.colorScheme = dark ? "dark" : "light";
      return dark ? "dark" : "light";
    },

    // --- prompt ---

    requestPrompt(clicks, example, bos, prompt, bosUsed, second, images, limits) {
      const nothing = [skip(), skip(), skip(), skip(), skip()];
      const cause = triggeredId();
      if (prompt === null || prompt === undefined) {
        return nothing;
      }
      // Read from the fields themselves: components report what is typed only a moment later.
      const text = document.getElementById("prompt-text").value;
      const beside = document.getElementById("second-text").value;
      if (cause === "examples") {
        if (!example) {
          return nothing;
        }
        const at = Date.now();
        if (example.startsWith(SCENE)) {
          return [{ scene: example, second: beside, bos, at }, skip(), null, null, null];
        }
        const asked = { text: example, second: beside, bos, images: [], at };
        return [asked, example, null, null, null];
      }
      if (cause === "bos" && bos === bosUsed) {
        return nothing;
      }
      const length = Math.max(text.length, beside.length);
      if (length > limits.maxPrompt) {
        const long = length.toLocaleString("en");
        const most = limits.maxPrompt.toLocaleString("en");
        const rest = " has " + long + " characters; at most " + most + " can be shown. Shorten it.";
        const problems =
          beside.length > text.length ? [null, "This text" + rest] : ["The prompt" + rest, null];
        return [skip(), skip(), ...problems, skip()];
      }
      const isSame = sameTexts({ prompt: text, second: beside }, prompt, second, []);
      if (cause !== "bos" && isSame && !document.getElementById("wait-cancelled").hidden) {
        document.getElementById("wait-again").click(); // the view does not change, so nothing would run
        return nothing;
      }
      return [{ text, second: beside, bos, images, at: Date.now() }, skip(), null, null, skip()];
    },

    closeToken() {
      return true;
    },

    // --- heads ---

    clearHeads(clicks) {
      return clicks ? [] : skip();
    },

    addRow(sweepCell, sweepKey, searchCell, searchKey, chosen) {
      const event = triggered()[0] && triggered()[0].value;
      const head = event && shortName(event.rowId || event.data);
      return head && !chosen.includes(head) ? [...chosen, head] : skip();
    },

    useHeads(clicks, found) {
      return clicks && found ? [found.heads, true] : [skip(), skip()];
    },

    // Only a pair of sentences has them.
    hideDirections(tokens) {
      return !tokens || !tokens.segments;
    },

    // Norms have no scale of their own: what is drawn of them is said in parts of the largest.
    readThreshold(value, drawn) {
      if (drawn && drawn.kind === "moved") {
        return Math.round(100 * value) + " % of max";
      }
      return value ? String(value) : "0";
    },

    showMore(clicks, prompt, model, pages) {
      return triggeredId() === "show-more" ? pages + 1 : 1;
    },

    // --- tokens chosen from a list ---

    watchChosen(value, watched) {
      const id = value === null || value === undefined ? null : Number(value);
      return id === (watched === undefined ? null : watched) ? skip() : id;
    },

    chooseTarget(value) {
      return [value === null || value === undefined ? null : Number(value), null];
    },

    // --- study ---

    sayOutdated(kind, sweep, search, byPosition, prompt, second, images, goal) {
      const kept = kind === "sweep" ? sweep : kind === "positions" ? byPosition : search;
      if (kept && kept.study !== kind) {
        return "This result is of the " + kept.study + " study.";
      }
      if (kept && sameTexts(kept, prompt, second, images)) {
        const other = kind === "targeted" && kept.goal !== (goal || "");
        return other ? "This result is of an earlier goal: " + (kept.goal || "a token") : "";
      }
      if (!kept) {
        return "";
      }
      const text = kept.prompt + (kept.second ? " | " + kept.second : "");
      const long = text.length > QUOTED;
      const quoted = long ? text.slice(0, QUOTED) + "…" : text;
      return "This result is of an earlier prompt: “" + quoted + "”";
    },

    // A field that is left by clicking "Run study" reports its value, and the view takes it up,
    // only after the click.
    requestStudy(clicks) {
      const settle = (resolve) => window.setTimeout(() => resolve(clicks), SETTLE_MS);
      return clicks ? new Promise(settle) : skip();
    },

    showStudy(kind, metric, strategy, shape, limits) {
      const sweep = kind === "sweep";
      const byPosition = kind === "positions";
      const search = !sweep && !byPosition;
      const aboutTarget = search ? kind === "targeted" : limits.targetMetrics.includes(metric);
      const acts = (shape && shape.acts) || "";
      const texts = acts === "numbers" ? limits.policyHelp : limits.studyHelp;
      const chosen = search && acts !== "numbers" ? " " + limits.strategyHelp[strategy] : "";
      const hidesToken = !aboutTarget || acts === "numbers";
      const hidesGoal = kind !== "targeted" || !acts;
      return [texts[kind] + chosen, search, !search, hidesToken, hidesGoal, !sweep, !search, !byPosition];
    },

    // What was wrong with the heads is so no more once others are chosen.
    hintByPosition(heads, limits) {
      return [heads.length ? limits.byPosition.ready : limits.byPosition.noHeads, null];
    },

    // The tokens of an earlier prompt are not there any more.
    openColumn(click, kept, prompt, second, images) {
      const point = click && click.points && click.points[0];
      const current = kept && kept.opens && sameTexts(kept, prompt, second, images);
      return point && current ? { position: Number(point.x), at: Date.now() } : skip();
    },
  };

  window.dash_clientside = Object.assign({}, window.dash_clientside, { page });

  // --- a server that was stopped ---

  // Asked only after the page was used or while something is awaited: a quiet page makes no
  // requests. Once the server answers again the page opens anew, from the view in its link, as
  // the websocket does not repeat what was asked meanwhile.
  let used = false;
  let lost = false;

  async function lookForServer() {
    const waiting = document.querySelector('[data-dash-is-loading="true"]') !== null;
    if (!used && !waiting && !lost) {
      return;
    }
    used = false;
    const answers = await fetch("/health", { cache: "no-store" }).then(
      (response) => response.ok,
      () => false
    );
    if (answers && lost) {
      window.location.reload();
    } else if (!answers && !lost) {
      lost = true;
      window.dash_clientside.set_props("lost", { hidden: false });
    }
  }

  for (const kind of ["click", "keydown"]) {
    document.addEventListener(kind, () => (used = true), true);
  }
  window.setInterval(lookForServer, ALIVE_MS);

  // --- keys ---

  function onPromptKey(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      event.stopPropagation();
      document.getElementById("prompt-run").click();
    }
  }

  document.addEventListener(
    "keydown",
    (event) => {
      if (event.target.id === "prompt-text" || event.target.id === "second-text") {
        onPromptKey(event);
      }
    },
    true
  );

  // --- functions that components take as properties ---

  const MODELS_SHOWN = 200;

  window.dashMantineFunctions = Object.assign({}, window.dashMantineFunctions, {
    // All models as long as nothing new is typed.
    filterModels({ options, search }) {
      const typed = search.trim().toLowerCase();
      const known = options.some((option) => option.value === search);
      const fitting = options.filter((option) => option.label.toLowerCase().includes(typed));
      return (known || !typed ? options : fitting).slice(0, MODELS_SHOWN);
    },

    // Heads are found by both notations, "L5H3" and "5.3".
    filterHeads({ options, search }) {
      const typed = search.trim().toLowerCase();
      if (!typed) {
        return options;
      }
      const fits = (item) => item.label.toLowerCase().startsWith(typed) || item.value.startsWith(typed);
      return options
        .map((group) => ({ ...group, items: group.items.filter(fits) }))
        .filter((group) => group.items.length > 0);
    },
  });

  window.dashAgGridFunctions = Object.assign({}, window.dashAgGridFunctions, {
    gridRowChosen(params, setEventData) {
      if (params.event && (params.event.key === "Enter" || params.event.key === " ")) {
        params.event.preventDefault();
        setEventData(params.data.head);
      }
    },
  });
})();
