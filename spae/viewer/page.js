
const slider = document.querySelector("#layers"), shown = document.querySelector("#shown");
const articles = [...document.querySelectorAll("article")];
const size = (table) => [table.rows.length, table.rows[0].cells.length];
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

// The reconstruction from the first so many layers.
function reveal(article, layers) {
  const pictures = article.querySelectorAll(".made img");
  pictures.forEach((picture, index) => (picture.hidden = index !== layers - 1));
  article.querySelector(".made figcaption").textContent =
    `from ${plural(layers, "layer")}, ${pictures[layers - 1].alt.split(", ").at(-1)}`;
}

function place(td) {
  const table = td.closest("table"), [rows, columns] = size(table);
  return { table, rows, columns, row: td.parentElement.rowIndex, column: td.cellIndex };
}

function layerOf(table) {
  return [...table.closest(".grids").children].indexOf(table.parentElement) + 1;
}

function mark(td) {
  const { table, rows, columns, row, column } = place(td);
  const article = td.closest("article"), layer = layerOf(table);
  clear(article);
  article.classList.add("marked");
  td.classList.add("on");
  for (const cell of article.querySelectorAll(".cell")) {
    cell.className = `cell layer${layer}`;
    cell.style.top = `${(100 * row) / rows}%`;
    cell.style.left = `${(100 * column) / columns}%`;
    cell.style.height = `${100 / rows}%`;
    cell.style.width = `${100 / columns}%`;
  }
  // The cells of other layers that lie in this one, or it in them.
  for (const other of article.querySelectorAll(".layer:not([hidden]) table")) {
    const [high, wide] = size(other);
    if (other === table) continue;
    for (let r = Math.floor((row * high) / rows); r < Math.ceil(((row + 1) * high) / rows); r++)
      for (let c = Math.floor((column * wide) / columns); c < Math.ceil(((column + 1) * wide) / columns); c++)
        other.rows[r].cells[c].classList.add("below");
  }
  const about = article.querySelector(".word"), word = document.createElement("b");
  word.textContent = td.textContent;
  about.replaceChildren(word, `layer ${layer}, row ${row + 1}, column ${column + 1} of ${rows} x ${columns}`);
  reveal(article, layer);
}

function clear(article) {
  article.classList.remove("marked");
  article.querySelectorAll(".on, .below").forEach((td) => td.classList.remove("on", "below"));
  article.querySelector(".word").replaceChildren();
  reveal(article, Number(slider.value));
}

function slide() {
  const layers = Number(slider.value);
  let words = 0;
  for (const article of articles) {
    [...article.querySelectorAll(".layer")].forEach((figure, index) => (figure.hidden = index >= layers));
    clear(article);
  }
  if (articles.length)
    for (const table of articles[0].querySelectorAll(".layer:not([hidden]) table"))
      words += size(table)[0] * size(table)[1];
  shown.value = `${layers} of ${slider.max}` + (words ? `, ${plural(words, "word")}` : "");
}

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function move(event) {
  const td = event.target.closest("td");
  if (!td || event.ctrlKey || event.altKey || event.metaKey) return;
  const { table, rows, columns, row, column } = place(td);
  let next;
  if (event.key in STEPS) {
    const [down, right] = STEPS[event.key];
    next = table.rows[row + down]?.cells[column + right];
  } else if (event.key === "Home") next = table.rows[row].cells[0];
  else if (event.key === "End") next = table.rows[row].cells[columns - 1];
  else if (event.key === "Escape") return td.blur();
  else return;
  event.preventDefault(); // the page does not scroll, at the edge of a grid either
  if (!next) return;
  td.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

for (const article of articles) {
  article.querySelectorAll("td").forEach((td) => (td.tabIndex = -1));
  // One stop for Tab in each grid.
  article.querySelectorAll("table").forEach((table) => (table.rows[0].cells[0].tabIndex = 0));
  const restore = () => {
    const held = article.querySelector("td:focus");
    held ? mark(held) : clear(article);
  };
  article.addEventListener("pointerover", (event) => {
    const td = event.target.closest("td");
    td ? mark(td) : restore();
  });
  article.addEventListener("pointerleave", restore);
  article.addEventListener("focusin", (event) => event.target.matches("td") && mark(event.target));
  article.addEventListener("focusout", (event) => !article.contains(event.relatedTarget) && clear(article));
  article.addEventListener("keydown", move);
}
slider.addEventListener("input", slide);
slider.hidden = false;
slide();
