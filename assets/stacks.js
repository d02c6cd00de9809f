// Which positions a head's queries and keys are, and the choice among the stacks of a model that
// has several: pictures that join all heads' tokens draw the heads of one stack at a time.

(function () {
  "use strict";

  const NAMES = {
    "source source": "encoder",
    "prompt prompt": "decoder",
    "prompt source": "cross attention",
  };

  const SEEING = {
    "source source": "vision tower",
    "prompt prompt": "language model",
    "acting all": "action expert",
  };

  const COMPARING = {
    "prompt prompt": "vision tower",
    "compared compared": "text tower",
  };

  // The positions of a side, { names, labels }: the prompt's own are those of what is known itself.
  function ofSide(known, side) {
    return side === "prompt" ? known : known.sides[side];
  }

  // A stack of a policy that a person wrapped is called as they call it: so are its sides.
  function nameOf(stack, known) {
    const { images } = window.attention;
    const [queries] = stack.split(" ");
    if (known && known.main) {
      return queries === "prompt" ? known.main : queries.replace(/^of-/, "");
    }
    if (known && known.sides.compared) {
      return COMPARING[stack];
    }
    return images && images().pictures.length ? SEEING[stack] : NAMES[stack];
  }

  function stackOf(known, head) {
    return known.maps[head].sides.join(" ");
  }

  // The place of the choice, hidden unless the heads are of several stacks. `changed` is called when
  // a person chooses.
  function stackChoice(changed) {
    const element = document.createElement("div");
    element.className = "stack-choice";
    element.setAttribute("role", "radiogroup");
    element.setAttribute("aria-label", "Stack of attention layers");
    let stack = "prompt prompt";
    let isChosen = false; // by a person
    let latest = null; // what is known

    function fill(stacks) {
      element.hidden = stacks.length < 2;
      element.replaceChildren(
        ...stacks.map((name) => {
          const button = document.createElement("button");
          button.type = "button";
          button.textContent = nameOf(name, latest);
          button.setAttribute("role", "radio");
          button.setAttribute("aria-checked", String(name === stack));
          button.addEventListener("click", () => {
            stack = name;
            isChosen = true;
            fill(stacks);
            changed();
          });
          return button;
        })
      );
    }

    return {
      element,

      // Take the heads that are known now; the first one's stack is shown if none was chosen.
      update(known) {
        latest = known;
        const stacks = [...new Set(known.order.map((head) => stackOf(known, head)))];
        if (!isChosen || !stacks.includes(stack)) {
          stack = stacks[0] || "prompt prompt";
        }
        fill(stacks);
      },

      heads(known) {
        return known.order.filter((head) => stackOf(known, head) === stack);
      },

      // The place of a head among those of its stack.
      place(known, head) {
        const mates = known.order.filter((one) => stackOf(known, one) === stackOf(known, head));
        return mates.indexOf(head);
      },

      // Whose positions are the queries ("at") and the keys ("by").
      side(direction) {
        return stack.split(" ")[direction === "at" ? 0 : 1];
      },

      labels(known, direction) {
        return ofSide(known, this.side(direction)).labels;
      },

      // Whether queries and keys are the same positions.
      own() {
        return this.side("at") === this.side("by");
      },
    };
  }

  window.attention = Object.assign({}, window.attention, { stackChoice, ofSide });
})();
