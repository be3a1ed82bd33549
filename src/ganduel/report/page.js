"use strict";
// Sort the table by a column: first upwards, then downwards. What is empty comes last.
const table = document.getElementById("results");
for (const head of table.tHead.rows[0].cells) {
  head.firstChild.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    const number = head.dataset.kind === "number";
    const value = (row) => row.cells[head.cellIndex].dataset.value ?? row.cells[head.cellIndex].textContent;
    const order = (a, b) => (number ? a - b : a.localeCompare(b, "en", { numeric: true })) * (up ? 1 : -1);
    const rows = [...table.tBodies[0].rows].sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      return a === "" || b === "" ? (a === "") - (b === "") : order(a, b);
    });
    table.tBodies[0].append(...rows);
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
  });
}
// Hide a run's curves, and show them again.
for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", shown);
    for (const curve of document.querySelectorAll(`.curve[data-run="${button.dataset.run}"]`)) {
      curve.classList.toggle("hidden", !shown);
    }
  });
}
