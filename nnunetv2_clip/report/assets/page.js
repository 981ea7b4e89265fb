"use strict";

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
  head.addEventListener("click", () => sortTable(head));
  head.addEventListener("keydown", (event) => {
    if (event.key === "Enter") sortTable(head);
  });
}

const opacity = document.getElementById("opacity");
if (opacity) {
  opacity.addEventListener("input", () => {
    document.documentElement.style.setProperty("--opacity", opacity.value / 100);
  });
}

// Pictures: a click shows the pair large.
const zoom = document.getElementById("zoom");
function enlarge(figure) {
  const place = zoom.querySelector("div");
  place.replaceChildren(...[...figure.children].map((child) => child.cloneNode(true)));
  zoom.showModal();
}
for (const figure of document.querySelectorAll(".planes figure")) {
  figure.addEventListener("click", () => enlarge(figure));
  figure.addEventListener("keydown", (event) => {
    if (event.key === "Enter") enlarge(figure);
  });
}
zoom.addEventListener("click", () => zoom.close());
