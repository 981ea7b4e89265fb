"use strict";

// A click, Enter or Space on something that is no button by birth.
function onPress(element, action) {
  element.addEventListener("click", action);
  element.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault(); // else the key would press what has the focus afterwards, and Space would scroll
    action();
  });
}

// Tables: a click on a column's head sorts by it; cells without a value stay last in both directions.
function sortKey(cell) {
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
  return cell.classList.contains("num") ? null : cell.textContent.trim();
}

function compare(first, second) {
  if (typeof first === "number" && typeof second === "number") return first - second;
  return String(first).localeCompare(String(second), undefined, { numeric: true });
}

function sortTable(head) {
  const table = head.closest("table");
  const column = [...head.parentNode.children].indexOf(head);
  const ascending = head.dataset.sorted !== "ascending";
  for (const other of head.parentNode.children) {
    delete other.dataset.sorted;
    other.removeAttribute("aria-sort");
  }
  head.dataset.sorted = ascending ? "ascending" : "descending";
  head.setAttribute("aria-sort", head.dataset.sorted);
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, key: sortKey(row.cells[column]) }));
  rows.sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
    return ascending ? compare(a.key, b.key) : compare(b.key, a.key);
  });
  body.append(...rows.map((entry) => entry.row));
}

for (const head of document.querySelectorAll("table.sortable thead th:not([data-nosort])")) {
  head.tabIndex = 0;
  onPress(head, () => sortTable(head));
}

const opacity = document.getElementById("opacity");
if (opacity) {
  opacity.addEventListener("input", () => {
    document.documentElement.style.setProperty("--opacity", opacity.value / 100);
  });
}

// Pictures: large in a dialog, arrow keys go on.
const zoom = document.getElementById("zoom");
const figures = [...document.querySelectorAll(".planes figure")];
let enlarged = 0;
function enlarge(number) {
  enlarged = Math.min(Math.max(number, 0), figures.length - 1);
  const figure = figures[enlarged];
  const title = [figure.closest(".case").querySelector("h3").firstChild, figure.closest(".view").querySelector("h4")];
  zoom.querySelector("p").textContent = title.map((node) => node.textContent.trim()).join(" · ");
  const place = zoom.querySelector("div");
  place.style.cssText = figure.style.cssText;
  place.replaceChildren(...[...figure.children].map((child) => child.cloneNode(true)));
  if (!zoom.open) zoom.showModal();
}
figures.forEach((figure, number) => onPress(figure, () => enlarge(number)));
zoom.addEventListener("click", () => zoom.close());
zoom.addEventListener("close", () => figures[enlarged].focus());
zoom.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  enlarge(enlarged + step);
});
