// Draws each figure when it comes near the viewport (a study may hold a hundred), in the page's colours.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paper = 680; // CSS pixels: the width of a printed page
  // Buttons by name: Plotly's own choice includes one that sends the chart to a server.
  const buttons = [["toImage", "zoom2d", "pan2d", "resetScale2d"]];
  const config = { displaylogo: false, responsive: true, modeBarButtons: buttons };
  const figures = [...document.querySelectorAll("[data-figure]")];
  const drawn = new Set();
  let printing = false;

  const draw = (element) => {
    const { data, layout } = JSON.parse(document.getElementById(element.dataset.figure).textContent);
    layout.template = dark.matches && !printing ? MAXL_TEMPLATES.dark : MAXL_TEMPLATES.light;
    if (printing) {
      const share = element.closest(".side-by-side")?.children.length > 1 ? 0.48 : 1;
      Object.assign(layout, { width: paper * share, height: element.clientHeight });
    }
    drawn.add(element);
    return Plotly.react(element, data, layout, config);
  };
  const drawNew = (elements) => Promise.all(elements.filter((element) => !drawn.has(element)).map(draw));
  const print = (now) => {
    printing = now;
    figures.filter((element) => element.offsetParent !== null).forEach(draw);
  };

  const near = new IntersectionObserver(
    (entries) => drawNew(entries.filter((entry) => entry.isIntersecting).map((entry) => entry.target)),
    { rootMargin: "800px" },
  );
  figures.forEach((element) => near.observe(element));
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
  dark.addEventListener("change", () => [...drawn].forEach(draw));

  // Escape closes what is open around the focus, and the focus goes back to the line that opened it.
  addEventListener("keydown", (event) => {
    const open = event.key === "Escape" && document.activeElement?.closest("details[open]");
    if (!open) return;
    open.open = false;
    open.querySelector("summary").focus();
  });
})();
