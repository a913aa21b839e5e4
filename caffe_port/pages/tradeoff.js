// The comparison: a disc that is pointed at tells its numbers, and its row in the table is marked.
"use strict";
(() => {
  const { nets } = JSON.parse(document.getElementById("data").textContent);
  const readout = document.getElementById("readout");

  const show = (number) => {
    for (const marked of document.querySelectorAll("[data-net]")) {
      marked.classList.toggle("shown", Number(marked.dataset.net) === number);
    }
    const heading = document.createElement("h3");
    heading.textContent = nets[number].title;
    const list = document.createElement("dl");
    for (const [what, value] of nets[number].facts) {
      const term = document.createElement("dt");
      term.textContent = what;
      const detail = document.createElement("dd");
      detail.textContent = value;
      list.append(term, detail);
    }
    readout.replaceChildren(heading, list);
  };

  for (const disc of document.querySelectorAll(".disc")) {
    const number = Number(disc.dataset.net);
    for (const event of ["pointerenter", "focus", "click"]) disc.addEventListener(event, () => show(number));
  }
})();
