"use strict";
// Sort a table by a column when its heading is clicked. Cells without a value come last.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  Array.from(table.tHead.rows[0].cells).forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const text = (row) => row.cells[column].textContent.trim();
      const value = (row) => parseFloat(text(row).replaceAll(",", ""));
      const filled = Array.from(body.rows).filter((row) => text(row) !== "-");
      const isNumeric = filled.every((row) => !Number.isNaN(value(row)));
      const order = (a, b) => (isNumeric ? value(a) - value(b) : text(a).localeCompare(text(b), "en"));
      const empty = Array.from(body.rows).filter((row) => text(row) === "-");
      filled.sort((a, b) => (down ? order(b, a) : order(a, b)));
      body.append(...filled, ...empty);
    });
  });
}
