"use strict";
(() => {
  const LEADING_NUMBER = /^[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.])/i;

  // The number that a text begins with, as in "0.645 ± 0.034"; NaN if it begins with none.
  function leadingNumber(text) {
    const match = text.match(LEADING_NUMBER);
    return match ? Number(match[0].replaceAll(",", "")) : NaN;
  }

  function isEmpty(text) {
    return text === "" || text === "-";
  }

  function compare(first, second, numeric) {
    return numeric ? leadingNumber(first) - leadingNumber(second) : first.localeCompare(second, "en");
  }

  // Sort the rows by a column. Cells without a value come last in both directions.
  function sortBy(table, column, direction) {
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, (row) => ({ row, text: row.cells[column].textContent.trim() }));
    const filled = rows.filter(({ text }) => !isEmpty(text));
    const numeric = filled.every(({ text }) => !Number.isNaN(leadingNumber(text)));
    filled.sort((first, second) => direction * compare(first.text, second.text, numeric));
    body.append(...filled.concat(rows.filter(({ text }) => isEmpty(text))).map(({ row }) => row));
  }

  function sortOnClick(table, heading, column) {
    const ascending = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    sortBy(table, column, ascending ? 1 : -1);
  }

  for (const table of document.querySelectorAll("table")) {
    if (table.tBodies[0].rows.length < 2) continue;
    Array.from(table.tHead.rows[0].cells).forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sortOnClick(table, heading, column));
      heading.append(button);
    });
  }

  // Paper has no arrows to click: open everything for it, and fold it again afterwards.
  const printing = window.matchMedia("print");
  let opened = [];
  function openForPrint() {
    if (printing.matches) {
      for (const details of document.querySelectorAll("details:not([open])")) {
        details.open = true;
        opened.push(details);
      }
    } else {
      for (const details of opened) details.open = false;
      opened = [];
    }
  }
  printing.addEventListener("change", openForPrint);
  openForPrint();
})();
