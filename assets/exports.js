// Pictures and their data as files: PNG and SVG are made here, data and whole pages by the server.

(function () {
  "use strict";

  const SCALE = 2; // pixels of a PNG for one of the page
  const MOST_PIXELS = 16000; // along an edge: browsers make no larger canvas
  const GAP = 12; // px between the maps of one picture

  function save(blob, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    window.setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  function svgBlob(svg) {
    return new Blob([svg], { type: "image/svg+xml" });
  }

  function sizeOf(svg) {
    const size = /^<svg[^>]* width="([\d.]+)" height="([\d.]+)"/.exec(svg);
    return [Number(size[1]), Number(size[2])];
  }

  async function png(svg) {
    const [width, height] = sizeOf(svg);
    const scale = Math.min(SCALE, MOST_PIXELS / width, MOST_PIXELS / height);
    const address = URL.createObjectURL(svgBlob(svg));
    try {
      const image = new Image();
      image.src = address;
      await image.decode();
      const canvas = document.createElement("canvas");
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      return await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    } finally {
      URL.revokeObjectURL(address);
    }
  }

  // Several SVGs in rows of as many as fit `across` px, as one.
  function together(svgs, across, background) {
    const parts = [];
    let [x, y, lineHeight, width] = [GAP, GAP, 0, 0];
    for (const svg of svgs) {
      const [w, h] = sizeOf(svg);
      if (x > GAP && x + w > across) {
        x = GAP;
        y += lineHeight + GAP;
        lineHeight = 0;
      }
      parts.push(svg.replace("<svg", `<svg x="${x}" y="${y}"`));
      x += w + GAP;
      width = Math.max(width, x);
      lineHeight = Math.max(lineHeight, h);
    }
    const height = y + lineHeight + GAP;
    return (
      `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" ` +
      `viewBox="0 0 ${width} ${height}"><rect width="${width}" height="${height}" ` +
      `fill="${background}"/>${parts.join("")}</svg>`
    );
  }

  // Plotly's figures as they stand, each as SVG on the page's surface.
  async function figures(plots) {
    const surface = window.getComputedStyle(document.body).getPropertyValue("--av-surface").trim();
    const parts = [];
    for (const plot of plots) {
      const { width, height } = plot._fullLayout;
      const layout = { ...plot.layout, width, height, paper_bgcolor: surface };
      const options = { format: "svg", width, height };
      const address = await window.Plotly.toImage({ data: plot.data, layout }, options);
      parts.push(decodeURIComponent(address.slice(address.indexOf(",") + 1)));
    }
    return parts;
  }

  const exports = {
    save,
    together,
    figures,

    // kind: "png" or "svg".
    async saveSvg(svg, kind, name) {
      save(kind === "svg" ? svgBlob(svg) : await png(svg), name + "." + kind);
    },
  };

  window.attention = Object.assign({}, window.attention, { exports });
})();
