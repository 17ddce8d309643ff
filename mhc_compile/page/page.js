"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

  // Light and dark: the reader's system decides until the button does.
  const theme = document.getElementById("theme");
  const isDark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const name = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    name();
  });
  name();

  // The drawing: search and fold.
  const find = document.getElementById("find");
  if (find) {
    const sites = all("#drawing .site");
    const folds = all("#drawing details");
    const before = folds.map((fold) => fold.open);
    const found = document.getElementById("found");
    const search = () => {
      const text = find.value.trim().toLowerCase();
      let shown = 0;
      for (const site of sites) {
        const fits = site.textContent.toLowerCase().includes(text);
        site.hidden = !fits;
        site.classList.toggle("hit", Boolean(text) && fits);
        shown += fits;
      }
      folds.forEach((fold, i) => {
        const has = all(".site:not([hidden])", fold).length > 0;
        fold.hidden = Boolean(text) && !has;
        fold.open = text ? has : before[i];
      });
      for (const folded of all("#drawing .folded")) folded.hidden = folded.firstElementChild.hidden;
      found.textContent = text ? `${count(shown, "site")} of ${sites.length.toLocaleString("en")}` : count(sites.length, "site");
    };
    find.addEventListener("input", search);
    const fold = (open) => folds.forEach((each, i) => { each.open = open; before[i] = open; });
    document.getElementById("unfold").addEventListener("click", () => fold(true));
    document.getElementById("fold").addEventListener("click", () => fold(false));
  }

  // Tables: filter and sort.
  for (const tools of all(".filters")) {
    const rows = all("tbody tr", document.getElementById(tools.dataset.for));
    const status = tools.querySelector("[role=status]");
    const filter = () => {
      const text = tools.querySelector("[data-text]").value.trim().toLowerCase();
      const chosen = all("select", tools).filter((each) => each.value);
      let shown = 0;
      for (const row of rows) {
        const fits = row.textContent.toLowerCase().includes(text)
          && chosen.every((each) => row.dataset[each.dataset.of] === each.value);
        row.hidden = !fits;
        shown += fits;
      }
      status.textContent = shown === rows.length ? count(shown, "row") : `${count(shown, "row")} of ${rows.length.toLocaleString("en")}`;
    };
    tools.addEventListener("input", filter);
  }
  const order = new Intl.Collator("en", { numeric: true });
  for (const table of all("table.sortable")) {
    const heads = all("thead th", table);
    const body = table.tBodies[0];
    heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.children[column].textContent.replaceAll(",", "");
      const sorted = [...body.rows].sort((a, b) => order.compare(key(a), key(b)) * (up ? 1 : -1));
      body.append(...sorted);
    }));
  }
})();
