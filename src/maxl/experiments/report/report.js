// Draws each figure when it comes near the viewport (a study may hold a hundred), in the page's colours.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  // Buttons by name: Plotly's own choice includes one that sends the chart to a server.
  const buttons = [["toImage", "zoom2d", "pan2d", "resetScale2d"]];
  const config = { displaylogo: false, responsive: true, modeBarButtons: buttons };
  const figures = [...document.querySelectorAll("[data-figure]")];
  const drawn = new Set();

  const draw = (element) => {
    const { data, layout } = JSON.parse(document.getElementById(element.dataset.figure).textContent);
    layout.template = dark.matches ? MAXL_TEMPLATES.dark : MAXL_TEMPLATES.light;
    drawn.add(element);
    return Plotly.react(element, data, layout, config);
  };
  const drawNew = (elements) => Promise.all(elements.filter((element) => !drawn.has(element)).map(draw));

  const near = new IntersectionObserver(
    (entries) => drawNew(entries.filter((entry) => entry.isIntersecting).map((entry) => entry.target)),
    { rootMargin: "800px" },
  );
  figures.forEach((element) => near.observe(element));
  addEventListener("beforeprint", () => drawNew(figures));
  dark.addEventListener("change", () => [...drawn].forEach(draw));
})();
