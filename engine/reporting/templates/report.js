// Sorts and filters the page's tables and wipes its pictures. Without it the page holds the same, in one order.
"use strict";

const AFTER = { none: "ascending", ascending: "descending", descending: "none" };
const NOTHING = "\u2013";
const UNITS = { h: 3600, min: 60, s: 1, GiB: 1024, MiB: 1 };
const words = new Intl.Collator("en", { numeric: true });

/** Return the cell of a row under a heading; a note in place of numbers spans several. */
function cellUnder(row, column) {
  let end = 0;
  return [...row.cells].find((cell) => (end += cell.colSpan) > column);
}

/** Return what a cell sorts by: text, a time, a size, or the number it begins with; null where it is missing. */
function keyOf(cell, isText) {
  if (!cell || cell.classList.contains("missing")) return null;
  const text = cell.textContent.trim();
  if (isText) return text === "" || text === NOTHING ? null : text;
  const parts = [...text.matchAll(/([\d.,]+) (h|min|s|GiB|MiB)\b/g)];
  if (parts.length) return parts.reduce((sum, [, count, unit]) => sum + count.replaceAll(",", "") * UNITS[unit], 0);
  const number = Number.parseFloat(text.replaceAll(",", "").replace("\u2212", "-"));
  return Number.isNaN(number) ? null : number;
}

/** Say in which order two keys stand; what is missing is last in either direction. */
function compare(one, other, sign) {
  if (one === null || other === null) return Number(one === null) - Number(other === null);
  return sign * (typeof one === "number" ? one - other : words.compare(one, other));
}

/** Return the rows of a group that move: all but its heading. */
function movable(group) {
  return [...group.rows].filter((row) => !row.classList.contains("head"));
}

/** Let every heading sort the rows below it, in groups where there are some: up, down, as written. */
function makeSortable(table) {
  const headings = [...table.tHead.rows[0].cells];
  const written = [...table.tBodies].map((group) => [group, movable(group)]);
  headings.forEach((heading, column) => {
    const isText = heading.classList.contains("words");
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    heading.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const direction = AFTER[heading.getAttribute("aria-sort")];
      for (const other of headings) other.setAttribute("aria-sort", other === heading ? direction : "none");
      const sign = direction === "descending" ? -1 : 1;
      for (const [group, rows] of written) {
        const keyed = rows.map((row) => [keyOf(cellUnder(row, column), isText), row]);
        if (direction !== "none") keyed.sort(([one], [other]) => compare(one, other, sign));
        group.append(...keyed.map(([, row]) => row));
      }
    });
  });
}

/** Return text as it is searched: minus signs as they are typed. */
function plain(text) {
  return text.replaceAll("\u2212", "-").replace(/\s+/g, " ").trim().toLowerCase();
}

/** Return what a row says. */
function saidBy(row) {
  return plain([...row.cells].map((cell) => cell.textContent).join(" "));
}

/** Put a field above a table that hides the rows without its text, and say how many it hides. */
function makeFilterable(table, box) {
  const tools = document.createElement("div");
  tools.className = "tools";
  tools.innerHTML = '<output></output><label>Filter <input type="search"></label>';
  const [count, field] = [tools.querySelector("output"), tools.querySelector("input")];
  field.setAttribute("aria-label", `Filter: ${box.getAttribute("aria-label")}`);
  const filter = () => {
    const wanted = plain(field.value);
    let [hidden, all] = [0, 0];
    for (const group of table.tBodies) {
      const head = group.querySelector(".head");
      const rows = movable(group);
      for (const row of rows) {
        row.hidden = !`${head ? saidBy(head) : ""} ${saidBy(row)}`.includes(wanted);
        hidden += row.hidden;
        all += 1;
      }
      if (head) head.hidden = rows.every((row) => row.hidden);
    }
    count.textContent = hidden ? `${hidden} of ${all} rows hidden` : "";
  };
  field.addEventListener("input", filter);
  box.before(tools);
}

/** Let a slider show more of the poisoned images, from the left, and less of the clean ones. */
function makeWipe(slider) {
  const [pictures, input] = [slider.closest(".pictures"), slider.querySelector("input")];
  const wipe = () => {
    pictures.style.setProperty("--wipe", `${input.value}%`);
    input.setAttribute("aria-valuetext", `${input.value} % poisoned`);
  };
  input.addEventListener("input", wipe);
  wipe();
  pictures.classList.add("wiping");
  slider.hidden = false;
}

for (const table of document.querySelectorAll("table")) {
  const box = table.closest(".scroll");
  makeSortable(table);
  makeFilterable(table, box);
  box.classList.add("live");
}
document.querySelectorAll(".slider").forEach(makeWipe);
