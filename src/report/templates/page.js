"use strict";
(() => {
  const make = (name, text, into) => {
    const element = document.createElement(name);
    if (text) element.textContent = text;
    return into ? into.appendChild(element) : element;
  };
  const number = (value) => String(Number(value.toPrecision(3)));

  for (const block of document.querySelectorAll(".block")) {
    const button = make("button", "copy", block);
    button.className = "copy";
    button.addEventListener("click", async () => {
      const text = block.querySelector("pre").textContent;
      try {
        await navigator.clipboard.writeText(text);
      } catch {
        getSelection().selectAllChildren(block.querySelector("pre"));
        document.execCommand("copy");
      }
      button.textContent = "copied";
      setTimeout(() => { button.textContent = "copy"; }, 1500);
    });
  }

  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent;
    const found = parseFloat(text.replace(/[^0-9.+-].*$/, ""));
    const scale = / ms/.test(text) ? 1e-3 : 1;
    return Number.isNaN(found) ? text : found * scale;
  };
  for (const table of document.querySelectorAll("table.sort")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = make("button", head.textContent);
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const order = (a, b) => {
          const [x, y] = [value(a, column), value(b, column)];
          return typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
        };
        const rows = [...table.tBodies[0].rows].sort((a, b) => (up ? order(a, b) : order(b, a)));
        table.tBodies[0].append(...rows);
      });
    });
  }

  for (const figure of document.querySelectorAll("figure[data-plot]")) {
    const data = JSON.parse(figure.dataset.plot);
    const frame = figure.querySelector(".frame");
    const svg = frame.querySelector("svg");
    const width = svg.viewBox.baseVal.width;
    const [left, right] = data.plane;
    const pixel = (x) => left + ((x - data.from) / (data.to - data.from)) * (right - left);
    const rule = make("div");
    const tip = make("div");
    rule.className = "rule";
    tip.className = "tip";
    const leave = () => { rule.remove(); tip.remove(); };
    const nearest = (points, at) =>
      points.reduce((best, point) => (Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best));
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const at = ((event.clientX - box.left) / box.width) * width;
      const x = data.from + ((at - left) / (right - left)) * (data.to - data.from);
      const near = data.lines
        .filter((line) => line.points.length)
        .map((line) => ({ line, point: nearest(line.points, x) }))
        .filter(({ point }) => Math.abs(pixel(point[0]) - at) < 14);
      if (!near.length || at < left - 6 || at > right + 6) return leave();
      const snapped = nearest(near.map(({ point }) => point), x)[0];
      tip.replaceChildren();
      make("div", `${number(snapped)} ${data.x.replace(/^load, /, "")}`, tip);
      for (const { line, point } of near) {
        const row = make("div", "", tip);
        make("i", "", row).style.color = `var(--${line.colour})`;
        const where = point[0] === snapped ? "" : ` (at ${number(point[0])})`;
        row.append(`${line.label}: ${number(point[1])} ${data.y}${where}`);
      }
      const scale = box.width / width;
      rule.style.left = `${pixel(snapped) * scale}px`;
      frame.append(rule, tip);
      const most = frame.scrollLeft + frame.clientWidth - tip.offsetWidth - 4;
      tip.style.left = `${Math.max(0, Math.min(pixel(snapped) * scale + 10, most))}px`;
      tip.style.top = "8px";
    });
    svg.addEventListener("pointerleave", leave);
  }

  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details:not(.file)")) details.open = true;
  });
})();
