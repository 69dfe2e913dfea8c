// Crops and resizes an image as keras_efficientnet/preprocessing.py does for evaluation, with TensorFlow's arithmetic
// (ResizeBicubic and ResizeBilinear, without antialiasing or clipping), which differs from that of a canvas.

const TABLE = 1024; // positions between two pixels for which TensorFlow has bicubic weights

/** Returns the central square that the network sees, in pixels; cropFraction: share of the shorter side to keep. */
export function centralWindow(height, width, cropFraction) {
  const side = Math.max(1, Math.trunc(Math.fround(Math.fround(cropFraction) * Math.min(height, width))));
  return { top: (height - side + 1) >> 1, left: (width - side + 1) >> 1, side };
}

/**
 * Resizes a square image.
 *
 * rgba: pixels, Uint8ClampedArray [side, side, 4] from 0 to 255; alpha is ignored.
 * Returns Float32Array [size, size, 3], from 0 to 255 except for the overshoot of the bicubic filter.
 */
export function resize(rgba, side, size, interpolation, halfPixelCenters) {
  const weigh = { bicubic: cubicTaps, bilinear: linearTaps }[interpolation];
  const taps = Array.from({ length: size }, (_, index) => weigh(index, size, side, halfPixelCenters));
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

// Returns the position of output pixel `index` of `size` among the `side` source pixels, in float32 as TensorFlow does.
function locate(index, size, side, halfPixelCenters) {
  const scale = Math.fround(side / size);
  return halfPixelCenters
    ? Math.fround(Math.fround(Math.fround(index + 0.5) * scale) - 0.5)
    : Math.fround(index * scale);
}

// Returns [source pixel, weight] of the two neighbours.
function linearTaps(index, size, side, halfPixelCenters) {
  const location = locate(index, size, side, halfPixelCenters);
  const share = location - Math.floor(location);
  return [
    [Math.max(Math.floor(location), 0), 1 - share],
    [Math.min(Math.ceil(location), side - 1), share],
  ];
}

// Returns [source pixel, weight] of the four neighbours. On the half-pixel grid, pixels outside the image weigh nothing
// (Keys 1981, a = -1/2). On the grid of the published checkpoints, the border pixel replaces them (a = -3/4).
function cubicTaps(index, size, side, halfPixelCenters) {
  const a = halfPixelCenters ? -0.5 : -0.75;
  const location = locate(index, size, side, halfPixelCenters);
  const first = Math.floor(location);
  const share = roundToEven((location - first) * TABLE) / TABLE;
  const weights = [outer(1 + share, a), inner(share, a), inner(1 - share, a), outer(2 - share, a)];
  const taps = weights.map((weight, offset) => {
    const source = first - 1 + offset;
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
