// Two ways to put down lines, text and boxes: on a canvas, which is fast, and as SVG, which is kept.
// A picture that is painted with one pen can be exported with the other.

(function () {
  "use strict";

  const MONO = 'ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace';

  function escaped(text) {
    const names = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
    return text.replace(/[&<>"]/g, (character) => names[character]);
  }

  // How text is set: { size in px, bold, align: "left", "right" or "center", colour }.
  function fontOf(style) {
    return (style.bold ? "bold " : "") + style.size + "px " + MONO;
  }

  // A pen on a canvas whose upper edge stands `top` px below the picture's.
  function canvasPen(context, top) {
    return {
      box(x, y, width, height, colour, opacity = 1) {
        context.globalAlpha = opacity;
        context.fillStyle = colour;
        context.fillRect(x, y - top, width, height);
        context.globalAlpha = 1;
      },
      // segments: x0, y0, x1, y1 of each, one after the other.
      lines(segments, colour, opacity, width) {
        context.globalAlpha = opacity;
        context.strokeStyle = colour;
        context.lineWidth = width;
        context.beginPath();
        for (let i = 0; i < segments.length; i += 4) {
          context.moveTo(segments[i], segments[i + 1] - top);
          context.lineTo(segments[i + 2], segments[i + 3] - top);
        }
        context.stroke();
        context.globalAlpha = 1;
      },
      text(x, y, text, style) {
        context.font = fontOf(style);
        context.textAlign = style.align;
        context.textBaseline = "middle";
        context.fillStyle = style.colour;
        context.fillText(text, x, y - top);
      },
    };
  }

  function svgPen(width, height, background) {
    const parts = [];
    const round100 = (number) => Math.round(number * 100) / 100;
    const round = (number) => Math.round(number * 10) / 10;
    const anchors = { left: "start", right: "end", center: "middle" };
    return {
      box(x, y, w, h, colour, opacity = 1) {
        const [left, up, across, down] = [x, y, w, h].map(round);
        parts.push(
          `<rect x="${left}" y="${up}" width="${across}" height="${down}" fill="${colour}" ` +
            `fill-opacity="${round100(opacity)}"/>`
        );
      },
      lines(segments, colour, opacity, thickness) {
        let path = "";
        for (let i = 0; i < segments.length; i += 4) {
          const [x0, y0, x1, y1] = Array.from(segments.slice(i, i + 4), round);
          path += `M${x0} ${y0}L${x1} ${y1}`;
        }
        parts.push(
          `<path d="${path}" stroke="${colour}" stroke-opacity="${opacity.toFixed(3)}" ` +
            `stroke-width="${thickness}" fill="none"/>`
        );
      },
      picture(x, y, w, h, address) {
        const box = `x="${round(x)}" y="${round(y)}" width="${round(w)}" height="${round(h)}"`;
        parts.push(`<image ${box} href="${address}"/>`);
      },
      text(x, y, text, style) {
        parts.push(
          `<text x="${round(x)}" y="${round(y)}" font-size="${style.size}" ` +
            `text-anchor="${anchors[style.align]}" dominant-baseline="central" ` +
            (style.bold ? 'font-weight="bold" ' : "") +
            `fill="${style.colour}" xml:space="preserve">${escaped(text)}</text>`
        );
      },
      finish() {
        return (
          `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" ` +
          `viewBox="0 0 ${width} ${height}" font-family="${escaped(MONO)}">` +
          `<rect width="${width}" height="${height}" fill="${background}"/>` +
          parts.join("") +
          "</svg>"
        );
      },
    };
  }

  window.attention = Object.assign({}, window.attention, { canvasPen, svgPen });
})();
