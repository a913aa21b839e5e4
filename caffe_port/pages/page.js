// Every page: controls that need a script, copying, sorting and filtering tables. Text goes in as text, never as markup.
"use strict";
(() => {
  for (const element of document.querySelectorAll("[data-needs-script], [data-copies]")) element.hidden = false;

  // A picture wider than its box begins at its middle.
  for (const box of document.querySelectorAll("[data-centred]")) box.scrollLeft = (box.scrollWidth - box.clientWidth) / 2;

  for (const button of document.querySelectorAll("[data-copies]")) {
    const source = document.getElementById(button.dataset.copies);
    button.addEventListener("click", async () => {
      let done = false;
      try {
        await navigator.clipboard.writeText(source.textContent);
        done = true;
      } catch {
        // Not allowed here: select it, so that a key press copies it.
        getSelection().selectAllChildren(source);
      }
      button.textContent = done ? "Copied" : "Selected";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }

  const number = (text) => {
    // What has no number because it is broken stands with the largest, what was not compared with the smallest.
    if (text === "∞" || text === "NaN") return Infinity;
    const value = Number(text.replaceAll(",", ""));
    return text === "" || Number.isNaN(value) ? -Infinity : value;
  };

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    const sort = () => {
      const column = heads.findIndex((head) => head.hasAttribute("aria-sort"));
      let rows = original;
      if (column >= 0) {
        const numeric = heads[column].dataset.sort === "number";
        const sign = heads[column].getAttribute("aria-sort") === "ascending" ? 1 : -1;
        const keyed = original.map((row) => {
          const text = row.cells[column].textContent;
          return [numeric ? number(text) : text, row];
        });
        const collator = new Intl.Collator("en", { numeric: true });
        const compare = numeric ? (a, b) => (a < b ? -1 : a > b ? 1 : 0) : collator.compare;
        keyed.sort((a, b) => sign * compare(a[0], b[0]));
        rows = keyed.map((pair) => pair[1]);
      }
      body.append(...rows);
    };
    for (const head of heads) {
      // No button element: with one in it, Chromium does not repeat the head on every printed page.
      const button = document.createElement("span");
      button.setAttribute("role", "button");
      button.tabIndex = 0;
      button.textContent = head.textContent;
      head.replaceChildren(button);
      if (head.dataset.sort === "number") head.classList.add("n");
      button.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        button.click();
      });
      button.addEventListener("click", () => {
        // Numbers begin with the largest; a third click gives the first order back.
        const order = head.dataset.sort === "number" ? ["descending", "ascending"] : ["ascending", "descending"];
        const next = order[order.indexOf(head.getAttribute("aria-sort")) + 1];
        for (const other of heads) other.removeAttribute("aria-sort");
        if (next) head.setAttribute("aria-sort", next);
        sort();
      });
    }

    const search = document.querySelector(`[data-filters="${table.id}"]`);
    const failing = document.querySelector(`[data-failing="${table.id}"]`);
    const count = document.querySelector(`[data-counts="${table.id}"]`);
    const filter = () => {
      const wanted = search ? search.value.trim().toLowerCase() : "";
      let shown = 0;
      for (const row of original) {
        const words = [...row.cells].slice(0, 5).map((cell) => cell.textContent).join("\n").toLowerCase();
        const stays = words.includes(wanted) && !(failing?.checked && !row.classList.contains("bad"));
        row.classList.toggle("out", !stays);
        if (stays) shown += 1;
      }
      if (count) count.textContent = `${shown.toLocaleString("en")} of ${original.length.toLocaleString("en")}`;
    };
    search?.addEventListener("input", filter);
    failing?.addEventListener("change", filter);
    // Whoever changes the cells says so.
    table.addEventListener("rows-changed", () => { sort(); filter(); });
  }
})();
