"use strict";

const articles = [...document.querySelectorAll("article")];
const rows = [...document.querySelectorAll(".edits tbody.cases tr")];
const byId = (id) => document.getElementById(id);

// The table: filter and sort; the edits below follow it.

const controls = { text: byId("filter"), type: byId("type"), way: byId("way") };

function filterCases() {
  const words = controls.text.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  rows.forEach((row) => {
    const article = byId(row.dataset.edit);
    const text = (row.textContent + " " + article.querySelector("header").textContent).toLowerCase();
    const visible =
      words.every((word) => text.includes(word)) &&
      (!controls.type.value || row.dataset.type === controls.type.value) &&
      (!controls.way.value || row.dataset.way === controls.way.value);
    row.hidden = article.hidden = !visible;
    shown += visible;
  });
  byId("shown").textContent = `${shown} of ${rows.length}`;
}

function sortCases(header) {
  const column = [...header.parentElement.children].indexOf(header);
  const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  header.parentElement.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
  header.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
  const key = (row) => row.children[column].dataset.sort;
  const compare = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    const difference = header.dataset.kind === "number" ? x - y : x.localeCompare(y);
    return direction * difference;
  };
  rows.sort(compare).forEach((row) => {
    row.parentElement.append(row);
    byId("edits").append(byId(row.dataset.edit));
  });
}

Object.values(controls).forEach((control) => control.addEventListener("input", filterCases));
document.querySelectorAll(".edits th button").forEach((button) => {
  button.addEventListener("click", () => sortCases(button.parentElement));
});

// A link leads to its edit, also to one that the filter hides.
addEventListener("hashchange", () => {
  const target = byId(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  if (target.hidden) {
    Object.values(controls).forEach((control) => (control.value = ""));
    filterCases();
  }
  goTo(target);
});

// What is out of view has a guessed height, so the page moves while its neighbours are drawn: look again after that.
function goTo(article) {
  const look = () => article.scrollIntoView({ block: "start" });
  look();
  requestAnimationFrame(() => requestAnimationFrame(look));
}

// Before and after: two of an edit's pictures on top of each other, made when the edit comes into view.

const thumbnails = (article) => [...article.querySelectorAll(".pictures button")];

function makeViewer(article) {
  const pictures = new Map(thumbnails(article).map((button) => [button.dataset.name, button]));
  const viewer = article.querySelector(".viewer");
  if (!viewer || pictures.size < 2) return;
  const layers = ["under", "over"].map((name) => {
    const image = new Image();
    image.className = name;
    image.draggable = false;
    viewer.append(image);
    return image;
  });
  const slider = Object.assign(document.createElement("input"), { type: "range", min: 0, max: 100, step: 0.5, value: 50 });
  slider.setAttribute("aria-label", "border between the two pictures");
  viewer.append(slider);
  const bar = document.createElement("p");
  bar.className = "choice";
  const wanted = ["original", pictures.has("sparse") ? "sparse" : [...pictures.keys()].at(-1)];
  const choices = ["left", "right"].map((side, place) => {
    const select = document.createElement("select");
    select.setAttribute("aria-label", `picture on the ${side}`);
    pictures.forEach((button, name) => select.add(new Option(button.dataset.caption, name, false, name === wanted[place])));
    bar.append(select);
    return select;
  });
  viewer.after(bar);
  const show = () => {
    // The left picture lies on top and is cut at the border.
    layers[0].src = pictures.get(choices[1].value).firstElementChild.src;
    layers[1].src = pictures.get(choices[0].value).firstElementChild.src;
    layers[0].alt = choices[1].selectedOptions[0].text;
    layers[1].alt = choices[0].selectedOptions[0].text;
  };
  const move = () => viewer.style.setProperty("--at", `${slider.value}%`);
  choices.forEach((select) => select.addEventListener("input", show));
  slider.addEventListener("input", move);
  show();
  move();
}

const watcher = new IntersectionObserver(
  (entries) =>
    entries.forEach((entry) => {
      if (!entry.isIntersecting) return;
      watcher.unobserve(entry.target);
      makeViewer(entry.target);
    }),
  { rootMargin: "600px" },
);
articles.forEach((article) => watcher.observe(article));

// Zoom: one picture large; the next one keeps the place, so that two can be compared by going to and fro.

const zoom = { box: byId("zoom"), image: byId("zoomed"), caption: byId("caption"), of: [], place: 0, scale: 1, x: 0, y: 0 };

function drawZoom() {
  const button = zoom.of[zoom.place];
  zoom.image.src = button.firstElementChild.src;
  zoom.image.alt = button.dataset.caption;
  zoom.image.style.transform = `translate(${zoom.x}px, ${zoom.y}px) scale(${zoom.scale})`;
  zoom.caption.textContent = `${button.dataset.caption} · ${zoom.place + 1} of ${zoom.of.length} · ${Math.round(100 * zoom.scale)} %`;
}

function openZoom(button) {
  Object.assign(zoom, { of: thumbnails(button.closest("article")), scale: 1, x: 0, y: 0 });
  zoom.place = zoom.of.indexOf(button);
  drawZoom();
  zoom.box.showModal();
}

function zoomBy(factor, x = 0, y = 0) {
  const scale = Math.min(Math.max(zoom.scale * factor, 1), 32);
  const ratio = scale / zoom.scale;
  Object.assign(zoom, { scale, x: scale === 1 ? 0 : x - (x - zoom.x) * ratio, y: scale === 1 ? 0 : y - (y - zoom.y) * ratio });
  drawZoom();
}

function stepZoom(by) {
  zoom.place = (zoom.place + by + zoom.of.length) % zoom.of.length;
  drawZoom();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest?.(".pictures button");
  if (button) openZoom(button);
});
zoom.box.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = zoom.box.getBoundingClientRect();
  zoomBy(Math.exp(-event.deltaY / 300), event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2);
}, { passive: false });
zoom.box.addEventListener("pointermove", (event) => {
  if (!event.buttons) return;
  zoom.x += event.movementX;
  zoom.y += event.movementY;
  drawZoom();
});
byId("close").addEventListener("click", () => zoom.box.close());
zoom.box.addEventListener("click", (event) => inZoom[event.target.dataset.key]?.());

// Keys: j and k walk through the edits, / goes to the filter; in the zoom the arrows change the picture, + - 0 its size.

const inZoom = {
  ArrowRight: () => stepZoom(1),
  ArrowLeft: () => stepZoom(-1),
  "+": () => zoomBy(1.5),
  "-": () => zoomBy(1 / 1.5),
  0: () => zoomBy(0),
};

function walk(by) {
  const shown = [...document.querySelectorAll("article")].filter((article) => !article.hidden);
  const current = shown.indexOf(document.activeElement.closest("article"));
  const next = shown[Math.min(Math.max(current + by, 0), shown.length - 1)];
  if (!next) return;
  next.focus({ preventScroll: true });
  goTo(next);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const act = zoom.box.open
    ? inZoom[event.key]
    : event.target.matches("input[type=search], select")
      ? null
      : { j: () => walk(1), k: () => walk(-1), "/": () => controls.text.focus() }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

filterCases();
