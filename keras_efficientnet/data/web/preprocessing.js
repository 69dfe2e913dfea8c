// Pixels of a picture -> the pixels the network takes: what keras_efficientnet/preprocessing.py does in evaluation, with
// TensorFlow's arithmetic (ResizeBicubic and ResizeBilinear, without antialiasing, not clipped). A canvas resizes otherwise.

const TABLE = 1024; // steps between two pixels that TensorFlow has bicubic weights for

/** The square in the middle that the network sees, in pixels; cropFraction: share of the shorter side that is kept. */
export function centralWindow(height, width, cropFraction) {
  const side = Math.max(1, Math.trunc(Math.fround(Math.fround(cropFraction) * Math.min(height, width))));
  return { top: (height - side + 1) >> 1, left: (width - side + 1) >> 1, side };
}

/**
 * Resizes a square picture.
 *
 * rgba: its pixels, Uint8ClampedArray [side, side, 4] from 0 to 255; alpha is left out.
 * Returns Float32Array [size, size, 3], from 0 to 255 but for the overshoot of the bicubic filter.
 */
export function resize(rgba, side, size, interpolation, halfPixelCenters) {
  const weigh = { bicubic: cubicTaps, bilinear: linearTaps }[interpolation];
  const taps = Array.from({ length: size }, (_, place) => weigh(place, size, side, halfPixelCenters));
  const pixels = new Float32Array(size * size * 3);
  const row = new Float64Array(side * 3);
  taps.forEach((vertical, y) => {
    mixRows(rgba, side, vertical, row);
    mixColumns(row, taps, pixels, y * size * 3);
  });
  return pixels;
}

function mixRows(rgba, side, taps, row) {
  row.fill(0);
  for (const [source, weight] of taps) {
    let from = source * side * 4;
    for (let to = 0; to < row.length; to += 3, from += 4) {
      row[to] += weight * rgba[from];
      row[to + 1] += weight * rgba[from + 1];
      row[to + 2] += weight * rgba[from + 2];
    }
  }
}

function mixColumns(row, taps, pixels, start) {
  taps.forEach((horizontal, x) => {
    for (let channel = 0; channel < 3; channel++) {
      let sum = 0;
      for (const [source, weight] of horizontal) sum += weight * row[source * 3 + channel];
      pixels[start + x * 3 + channel] = sum;
    }
  });
}

// Where output pixel `place` of `size` lies among the `side` pixels of the source, in float32 as TensorFlow computes it.
function locate(place, size, side, halfPixelCenters) {
  const scale = Math.fround(side / size);
  return halfPixelCenters
    ? Math.fround(Math.fround(Math.fround(place + 0.5) * scale) - 0.5)
    : Math.fround(place * scale);
}

// [source pixel, weight] of the two neighbours
function linearTaps(place, size, side, halfPixelCenters) {
  const location = locate(place, size, side, halfPixelCenters);
  const share = location - Math.floor(location);
  return [
    [Math.max(Math.floor(location), 0), 1 - share],
    [Math.min(Math.ceil(location), side - 1), share],
  ];
}

// [source pixel, weight] of the four neighbours. On the half-pixel grid those outside count nothing (Keys 1981, a = -1/2);
// on the other, that of the published checkpoints, the border's pixel stands for them (a = -3/4).
function cubicTaps(place, size, side, halfPixelCenters) {
  const a = halfPixelCenters ? -0.5 : -0.75;
  const location = locate(place, size, side, halfPixelCenters);
  const first = Math.floor(location);
  const share = roundToEven((location - first) * TABLE) / TABLE;
  const weights = [outer(1 + share, a), inner(share, a), inner(1 - share, a), outer(2 - share, a)];
  const taps = weights.map((weight, index) => {
    const source = first - 1 + index;
    const inside = Math.min(Math.max(source, 0), side - 1);
    return [inside, halfPixelCenters && inside !== source ? 0 : weight];
  });
  const sum = halfPixelCenters ? taps.reduce((total, [, weight]) => total + weight, 0) : 1;
  return taps.map(([source, weight]) => [source, weight / sum]);
}

const inner = (x, a) => ((a + 2) * x - (a + 3)) * x * x + 1; // distance 0 to 1
const outer = (x, a) => ((a * x - 5 * a) * x + 8 * a) * x - 4 * a; // distance 1 to 2

function roundToEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}
