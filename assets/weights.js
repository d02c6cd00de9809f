// Attention weights in the browser: read from the codes of viz/coding.py, which it is held against.
// Every picture draws from what this returns.

(function () {
  "use strict";

  const FIRST = 2;
  const LAST = 65535;
  const FLOOR = 1e-12;
  const LEAST_SAID = 0.005;
  let table = null;

  // The weight that each code stands for; NaN for a blank cell.
  function weightOf() {
    if (!table) {
      table = new Float32Array(LAST + 1);
      table[0] = NaN;
      for (let code = FIRST; code <= LAST; code++) {
        table[code] = Math.pow(FLOOR, 1 - (code - FIRST) / (LAST - FIRST));
      }
    }
    return table;
  }

  // URL-safe base64 of little-endian numbers of two bytes.
  function numbers(base64) {
    const text = window.atob(base64.replace(/-/g, "+").replace(/_/g, "/"));
    const found = new Uint16Array(text.length / 2);
    for (let i = 0; i < found.length; i++) {
      found[i] = text.charCodeAt(2 * i) | (text.charCodeAt(2 * i + 1) << 8);
    }
    return found;
  }

  const weights = {
    // coded: { columns, lengths, codes, unit }; codes stand for parts of the unit. Returns an array of Float32Array, one for each row.
    decode(coded) {
      const weight = weightOf();
      const codes = numbers(coded.codes);
      let next = 0;
      return Array.from(numbers(coded.lengths), (length) => {
        const row = new Float32Array(coded.columns).fill(NaN);
        for (let column = 0; column < length; column++) {
          row[column] = weight[codes[next++]] * coded.unit;
        }
        return row;
      });
    },

    // What viz/standalone packs: deflated codes, all high bytes and then all low ones, of the rows
    // of a map; rows of a causal map end at the diagonal.
    async unpack(base64, nQueries, nKeys, causal, unit) {
      const packed = Uint8Array.from(window.atob(base64), (character) => character.charCodeAt(0));
      const inflated = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
      const bytes = new Uint8Array(await new Response(inflated).arrayBuffer());
      const weight = weightOf();
      const half = bytes.length / 2;
      let next = 0;
      return Array.from({ length: nQueries }, (_, query) => {
        const row = new Float32Array(causal ? query + 1 : nKeys);
        for (let key = 0; key < row.length; key++, next++) {
          row[key] = weight[bytes[half + next] * 256 + bytes[next]] * unit;
        }
        return row;
      });
    },

    // cells: { query, key, step, coded }. Returns them with `values` in place of `coded`, which
    // is taken away so that the page's store does not keep the codes too.
    cells(sent) {
      const { query, key, step, coded } = sent;
      sent.coded = null;
      return { query, key, step, values: weights.decode(coded) };
    },

    // sent: { queries, keys, coded }: single weights of a map. Returns them as arrays.
    single({ queries, keys, coded }) {
      return { queries: numbers(queries), keys: numbers(keys), values: weights.decode(coded)[0] };
    },

    // Where a query looks ("at": a row of the map) or by whom a key is looked at ("by": a column).
    ofToken(values, position, direction, nKeys) {
      if (direction === "at") {
        const row = new Float32Array(nKeys).fill(NaN);
        row.set(values[position]);
        return row;
      }
      return Float32Array.from(values, (row) => row[position]);
    },

    // How strongly a weight shows, from 0 to 1; scale: { zmax, floor, threshold }. The second is null
    // unless the strength follows the logarithm of the weight; the third is left out where smaller
    // weights are blank already. NaN for a blank cell.
    strength(weight, { zmax, floor, threshold }) {
      if (threshold > weight) {
        return 0;
      }
      const part = floor === null ? weight / zmax : 1 + Math.log(weight / zmax) / Math.log(zmax / floor);
      return part > 1 ? 1 : part < 0 ? 0 : part;
    },

    // Whether a weight is worth a figure; of norms, where the unit is the largest, by its part of that.
    isSaid(weight, { unit }) {
      return weight >= LEAST_SAID * unit;
    },

    // The positions of the largest weights, largest first, without those that are no figure.
    strongest(found, count, scale) {
      const best = [];
      for (let i = 0; i < found.length; i++) {
        if (weights.isSaid(found[i], scale) && (best.length < count || found[i] > found[best[count - 1]])) {
          let place = best.length;
          while (place > 0 && found[best[place - 1]] < found[i]) {
            place--;
          }
          best.splice(place, 0, i);
          best.length = Math.min(best.length, count);
        }
      }
      return best;
    },

    // A weight as a figure in a narrow column: ".42", "1", nothing below a hundredth; a norm in two
    // digits: ".042", "13".
    short(weight, scale) {
      if (!weights.isSaid(weight, scale)) {
        return "";
      }
      if (scale.unit !== 1) {
        return String(Number(weight.toPrecision(2))).replace(/^0\./, ".");
      }
      return weight >= 0.995 ? "1" : weight.toFixed(2).slice(1);
    },

    // Three digits, which coded weights hold: what "%.3g" writes in Python.
    exact(weight) {
      if (weight !== weight) {
        return "–";
      }
      if (weight >= 1000) {
        return String(Math.round(weight));
      }
      const text = weight.toPrecision(3);
      const [digits, exponent] = weight < 1e-4 && weight > 0 ? weight.toExponential(2).split("e") : [text, ""];
      const bare = digits.includes(".") ? digits.replace(/\.?0+$/, "") : digits;
      return exponent ? bare + "e" + exponent : bare;
    },
  };

  window.attention = Object.assign({}, window.attention, { weights });
})();
