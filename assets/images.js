// The pictures of the prompt: their strip above the prompt's tokens, and where on them each position
// of the prompt stands, for those who draw on them.

(function () {
  "use strict";

  let shown = { names: [], pictures: [], cells: null, seen: null, sides: {} };

  function thumbnail({ name, src, width, height }, i) {
    const card = document.createElement("figure");
    const image = document.createElement("img");
    image.src = src;
    image.alt = name;
    image.title = name + ", " + width + " × " + height + " pixels";
    const drop = document.createElement("button");
    drop.type = "button";
    drop.textContent = "×";
    drop.title = "Take this picture out of the prompt";
    drop.setAttribute("aria-label", drop.title);
    drop.addEventListener("click", () => ask(shown.names.filter((_, at) => at !== i)));
    card.append(image, drop);
    return card;
  }

  // Ask for the prompt anew, as it is typed, with other pictures.
  function ask(names) {
    const text = document.getElementById("prompt-text").value;
    const second = document.getElementById("second-text").value;
    const bos = document.getElementById("bos").checked;
    const data = { text, second, bos, images: names, at: Date.now() };
    window.dash_clientside.set_props("prompt-request", { data });
  }

  const images = {
    // message: { names, pictures: [{ name, src, width, height }], cells, seen, sides }; `cells` and
    // `seen` have for each position of the prompt, and of the vision tower, [picture, left, top,
    // right, bottom] in pixels, or null; they are null where positions could not be told from
    // pixels. `sides` has the same of each further side of the prompt.
    show(message) {
      if (!message) {
        return;
      }
      shown = message;
      const strip = document.getElementById("image-strip");
      strip.replaceChildren(...message.pictures.map(thumbnail));
      document.dispatchEvent(new CustomEvent("pictures", { detail: message }));
    },
  };

  window.attention = Object.assign({}, window.attention, { images: () => shown });
  window.dash_clientside = Object.assign({}, window.dash_clientside, { images });

  // A picture in the clipboard goes the way of a chosen file.
  document.addEventListener("paste", (event) => {
    const place = document.getElementById("image-place");
    const types = [...((event.clipboardData && event.clipboardData.types) || [])];
    if (types.includes("text/plain")) {
      return; // programs for text and tables put a picture beside it
    }
    const files = [...((event.clipboardData && event.clipboardData.files) || [])].filter((file) =>
      file.type.startsWith("image/")
    );
    if (!files.length || !place || place.hidden) {
      return;
    }
    event.preventDefault();
    Promise.all(files.map(read)).then((contents) => {
      const filename = files.map(({ name }, i) => name || "pasted " + (i + 1));
      window.dash_clientside.set_props("image-upload", { filename, contents });
    });
  });

  function read(file) {
    return new Promise((resolve) => {
      const reader = new FileReader();
      reader.addEventListener("load", () => resolve(reader.result));
      reader.readAsDataURL(file);
    });
  }
})();
