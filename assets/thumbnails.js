// Thumbnails of attention and their colours, from what viz.overview.overview_message says.

(function () {
  "use strict";

  // Codes: see viz/overview.py. 0 is blank, 1 is less than the floor.
  const FIRST = 2;
  const LAST = 255;

  // Bytes as an array [layer][head][row][column]; what causal attention can't reach is blank.
  function spread({ codes, n_layers, n_heads, side, columns, causal }) {
    const text = window.atob(codes.replace(/-/g, "+").replace(/_/g, "/"));
    const all = new Uint8Array(n_layers * n_heads * side * columns);
    let next = 0;
    for (let row = 0; row < all.length; row += columns) {
      const length = causal ? ((row / columns) % side) + 1 : columns;
      for (let column = 0; column < length; column++) {
        all[row + column] = text.charCodeAt(next++);
      }
    }
    return all;
  }

  function weightOf(code, floor) {
    return code < FIRST ? 0 : Math.pow(floor, 1 - (code - FIRST) / (LAST - FIRST));
  }

  // For each of `size` pixels, from which cell up to which it shows the largest of.
  function spans(size, side) {
    return Array.from({ length: size }, (_, i) => {
      const from = Math.floor((i * side) / size);
      return [from, Math.max(from + 1, Math.ceil(((i + 1) * side) / size))];
    });
  }

  // The thumbnails of one message; a tile is a head, counted layer by layer.
  function of(sent) {
    const { side, columns, trivial, floor } = sent;
    const codes = spread(sent);
    const area = side * columns;

    // The first key is within reach of every query: nothing is blank there but what was not read.
    function wasRead(tile) {
      return codes[tile * area] !== 0;
    }

    // The largest weight of some heads, without the trivial 1 of a causal map's first rows.
    function largest(first, count) {
      const apart = side > trivial ? trivial * columns : 0;
      let code = 0;
      for (let tile = first; tile < first + count; tile++) {
        for (let i = tile * area + apart; i < (tile + 1) * area; i++) {
          code = Math.max(code, codes[i]);
        }
      }
      return weightOf(code, floor) || 1;
    }

    // A picture of `size` pixels across and down, whatever the cells; `table` has the colour of each
    // code.
    function image(context, tile, size, table) {
      const made = context.createImageData(size, size);
      const down = spans(size, side);
      const across = spans(size, columns);
      for (let y = 0; y < size; y++) {
        for (let x = 0; x < size; x++) {
          let code = 0;
          for (let row = down[y][0]; row < down[y][1]; row++) {
            for (let column = across[x][0]; column < across[x][1]; column++) {
              code = Math.max(code, codes[tile * area + row * columns + column]);
            }
          }
          made.data.set(table.subarray(4 * code, 4 * code + 4), 4 * (y * size + x));
        }
      }
      return made;
    }

    return { wasRead, largest, image };
  }

  // The colours of a scale, from small to large.
  function stops(sent, dark) {
    const named = sent.colours[dark ? "dark" : "light"];
    return named.map((colour) => colour.match(/\d+/g).map(Number));
  }

  function mixed(colours, share) {
    const at = Math.min(Math.max(share, 0), 1) * (colours.length - 1);
    const low = Math.min(Math.floor(at), colours.length - 2);
    return colours[low].map((from, i) => from + (at - low) * (colours[low + 1][i] - from));
  }

  // Where a weight stands on the scale that ends at `most`, from 0 to 1.
  function shareOf(weight, most, least) {
    if (least === null) {
      return weight / most;
    }
    const floor = Math.min(least, most / 10);
    return Math.log(Math.max(weight, floor) / floor) / Math.log(most / floor);
  }

  // The colour of each code, as four bytes; blank is transparent.
  function table({ floor }, colours, most, log) {
    const made = new Uint8ClampedArray(4 * (LAST + 1));
    for (let code = 1; code <= LAST; code++) {
      const share = shareOf(weightOf(code, floor), most, log ? floor : null);
      made.set([...mixed(colours, share), 255], 4 * code);
    }
    return made;
  }

  const thumbnails = { of, stops, mixed, table };
  window.attention = Object.assign({}, window.attention, { thumbnails });
})();
