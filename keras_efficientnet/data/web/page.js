// Names the five most likely classes of an image that is dropped, chosen or pasted. Everything runs in the browser: the
// content security policy in index.html allows requests only to the server of the page.

import { centralWindow, resize } from "./preprocessing.js";

const TOP = 5;
const element = (id) => document.getElementById(id);
let latest = 0; // number of the latest image: results of earlier ones are dropped
let shown = null; // URL of the displayed image

class Problem extends Error {} // an error that users can do something about; its message is for them

element("unstarted").hidden = true;
const network = start();
network.catch(fail);
listen();

async function start() {
  if (typeof WebAssembly !== "object") {
    throw new Problem("This browser does not run WebAssembly, which the network needs. It may be switched off (a " +
      "strict security mode, or a policy of your organisation). Otherwise, use a browser from 2023 or later.");
  }
  setStatus("Loading the network…");
  const settings = await get("settings.json", (response) => response.json());
  const labels = await get("labels.txt", (response) => response.text());
  const model = await load();
  await model(new Float32Array(settings.resolution ** 2 * 3), settings.resolution); // warm-up: the first call is slow
  const names = labels.replace(/\r?\n$/, "").split(/\r?\n/);
  element("about").textContent = `${settings.network}: ${settings.resolution} × ${settings.resolution} pixels, ` +
    `${names.length} classes, run by ${settings.runtime}.`;
  setStatus("Ready for an image.");
  return { ...settings, names, model };
}

async function load() {
  const bytes = await get("model.tflite", (response) => response.arrayBuffer());
  const { loadLiteRt, loadAndCompile, Tensor } = await import("@litertjs/core");
  await loadLiteRt("./runtime/wasm/");
  const compiled = await loadAndCompile(new Uint8Array(bytes), { accelerator: "wasm" });
  return async (pixels, size) => {
    const input = new Tensor(pixels, [1, size, size, 3]);
    const outputs = await compiled.run(input);
    const probabilities = outputs[0].toTypedArray().slice(); // a copy: the tensors are deleted next
    [input, ...outputs].forEach((tensor) => tensor.delete());
    return probabilities;
  };
}

async function get(name, read) {
  const response = await fetch(name).catch(() => null);
  if (!response?.ok) {
    throw new Problem(`${name} could not be loaded (${response ? `status ${response.status}` : "no answer"}). Put it ` +
      "beside index.html on the web server and reload this page.");
  }
  return read(response);
}

async function classify(file) {
  const number = ++latest;
  try {
    document.body.classList.add("busy");
    element("error").hidden = true;
    const bitmap = await decode(file);
    if (number !== latest) return bitmap.close();
    const { names, model, resolution, ...settings } = await network;
    if (number !== latest) return bitmap.close();
    const window = centralWindow(bitmap.height, bitmap.width, settings.crop_fraction);
    show(file, bitmap, window);
    setStatus("Looking…");
    await painted();
    const begun = performance.now();
    const rgba = read(bitmap, window);
    const pixels = resize(rgba, window.side, resolution, settings.interpolation, settings.half_pixel_centers);
    const prepared = performance.now();
    const probabilities = await model(pixels, resolution);
    const times = [prepared - begun, performance.now() - prepared];
    if (number === latest) report(probabilities, names, times);
  } catch (error) {
    if (number === latest) fail(error);
  } finally {
    if (number === latest) document.body.classList.remove("busy");
  }
}

// Returns the pixels as stored, rotated as the camera recorded: no colour profile, no premultiplied alpha.
async function decode(file) {
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image" };
  return createImageBitmap(file, options).catch(() => {
    const kind = file.type ? ` (${file.type})` : "";
    throw new Problem(`“${file.name}”${kind} is not an image that this browser can read. Try a JPEG, PNG or WebP.`);
  });
}

function read(bitmap, { top, left, side }) {
  const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, -left, -top);
  bitmap.close();
  return context.getImageData(0, 0, side, side).data;
}

function show(file, { width, height }, { top, left, side }) {
  if (shown) URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(file);
  const image = element("image");
  image.src = shown;
  image.alt = `The image ${file.name}`;
  const percent = (part, all) => `${(100 * part) / all}%`;
  Object.assign(element("window").style, {
    top: percent(top, height), left: percent(left, width), width: percent(side, width), height: percent(side, height),
  });
  element("preview").hidden = false;
  element("note").hidden = side === width && side === height;
}

function report(probabilities, names, [preparing, running]) {
  const order = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a]);
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const rows = order.slice(0, TOP).map((index) => row(names[index], probabilities[index], percent));
  element("classes").replaceChildren(...rows);
  setStatus(`Most likely: ${names[order[0]]}, ${percent(probabilities[order[0]])}`);
  element("time").textContent = `${(preparing + running).toFixed(0)} ms: ` +
    `${preparing.toFixed(0)} to prepare the image, ${running.toFixed(0)} for the network.`;
}

function row(name, share, percent) {
  const part = (kind, text, ...inner) => {
    const node = document.createElement(kind === "row" ? "li" : "div");
    node.className = kind;
    node.append(...(text === null ? inner : [text]));
    return node;
  };
  const bar = part("bar", "");
  bar.style.width = `${100 * share}%`;
  const track = part("track", null, bar);
  track.setAttribute("aria-hidden", "true");
  const item = part("row", null, part("line", null, part("name", name), part("share", percent(share))), track);
  item.dataset.probability = share;
  return item;
}

function setStatus(text) {
  element("status").textContent = text;
}

function fail(error) {
  const text = error instanceof Problem ? error.message : `Something went wrong: ${error?.message ?? error}`;
  element("error").textContent = text;
  element("error").hidden = false;
  for (const id of ["status", "classes", "time"]) element(id).replaceChildren();
  element("preview").hidden = element("note").hidden = true;
}

const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));

function handle(files) {
  const file = files?.[0];
  if (file) classify(file);
  else fail(new Problem("That was not a file. Save the image first, or copy it as an image, and drop or paste that."));
}

function listen() {
  for (const id of ["file", "camera"]) {
    element(id).addEventListener("change", ({ target }) => {
      if (target.files.length) handle([...target.files]);
      target.value = ""; // so that the same file can be chosen again
    });
  }
  const over = (on) => element("drop").classList.toggle("over", on);
  addEventListener("dragover", (event) => { event.preventDefault(); over(true); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) over(false); });
  addEventListener("drop", (event) => { event.preventDefault(); over(false); handle(event.dataTransfer.files); });
  addEventListener("paste", (event) => handle(event.clipboardData.files));
}
