// Makes the pages live and the charts readable. Without it everything is there, and a reload renews it.
(() => {
  "use strict";

  // Updates can be paused: what moves by itself must be able to stop.
  const toggle = document.querySelector("[data-live-toggle]");
  let paused = false;
  if (toggle) {
    toggle.hidden = false;
    toggle.addEventListener("click", () => {
      paused = !paused;
      toggle.textContent = paused ? toggle.dataset.resume : toggle.dataset.pause;
      toggle.setAttribute("aria-pressed", String(paused));
    });
  }
  document.addEventListener("htmx:sseBeforeMessage", (event) => {
    if (paused) event.preventDefault();
  });

  // A screen reader is told when the verdict changes, and not every two seconds.
  const said = document.querySelector("[data-verdict-said]");
  const say = () => {
    const verdict = document.getElementById("verdict");
    if (said && verdict && said.textContent !== verdict.textContent) said.textContent = verdict.textContent;
  };
  document.addEventListener("htmx:sseMessage", say);
  // Not while somebody works a button in it with the keyboard.
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.target.id === "progress" && event.target.contains(document.activeElement)) event.detail.shouldSwap = false;
    // A replay that ended, or a session: the whole page again.
    if (event.detail.xhr && event.detail.xhr.status >= 400) window.location.reload();
  });

  // Charts: the points come again every ten seconds.
  const charts = document.querySelector("[data-history]");
  if (!charts || typeof uPlot === "undefined") return;
  const span = charts.dataset.history.endsWith("24h") ? 86_400 : 3600;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const figures = [...charts.querySelectorAll("[data-chart]")].map((figure) => ({
    figure,
    plot: figure.querySelector(".plot"),
    fields: figure.dataset.chart.split(" "),
    unit: figure.dataset.unit,
    chart: null,
  }));
  // `light-dark()` is resolved only where it is used as a colour.
  const resolve = (name) => {
    const probe = document.createElement("i");
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value;
  };
  const short = (value, unit) => {
    if (value == null) return "–";
    if (unit === "s") {
      if (value === 0) return "0";
      if (value < 1) return `${Math.round(value * 1000)} ms`;
      if (value < 120) return `${+value.toPrecision(3)} s`;
      if (value < 7200) return `${+(value / 60).toPrecision(3)} min`;
      return `${+(value / 3600).toPrecision(3)} h`;
    }
    return value >= 10000 ? `${+(value / 1000).toPrecision(3)}k` : String(+value.toPrecision(3));
  };
  const draw = (points) => {
    const times = points.map((point) => point.at);
    for (const f of figures) {
      const data = [times, ...f.fields.map((field) => points.map((point) => point[field]))];
      if (f.chart) {
        f.chart.setData(data);
        continue;
      }
      const [line, muted, accent, warn] = ["--line", "--muted", "--accent", "--warn"].map(resolve);
      const axis = { stroke: muted, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "11px system-ui" };
      f.plot.replaceChildren();
      f.chart = new uPlot(
        {
          width: f.plot.clientWidth,
          height: f.plot.clientHeight,
          tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
          cursor: { y: false, points: { size: 6 } },
          legend: { show: false },
          padding: [8, 12, 0, 0],
          scales: { x: { range: (_, __, last) => [last - span, last] }, y: { range: (_, __, max) => [0, max > 0 ? max * 1.1 : 1] } },
          axes: [
            { ...axis, size: 26, space: 60, values: (_, ticks) => ticks.map((s) => new Date(s * 1000).toISOString().slice(11, 16)) },
            { ...axis, size: 52, space: 28, values: (_, ticks) => ticks.map((v) => short(v, f.unit)) },
          ],
          series: [
            {},
            ...f.fields.map((field, nth) => ({
              stroke: nth ? warn : accent,
              dash: nth ? [5, 4] : undefined,
              width: 1.75,
              // One that stands alone would not be seen.
              points: { show: true, size: 3.5, fill: nth ? warn : accent },
              spanGaps: false,
            })),
          ],
          hooks: {
            setCursor: [
              (u) => {
                const at = u.cursor.idx;
                f.figure.querySelectorAll(".legend b").forEach((value, nth) => {
                  const row = u.data[nth + 1];
                  value.textContent = short(row[at == null ? row.length - 1 : at], f.unit) + (f.unit === "/s" ? "/s" : "");
                });
              },
            ],
          },
        },
        data,
        f.plot,
      );
    }
  };
  const load = async () => {
    if (paused || document.hidden) return;
    try {
      const answer = await fetch(charts.dataset.history, { headers: { accept: "application/json" } });
      if (answer.ok) draw(await answer.json());
    } catch {
      // The service is away; the next look tries again.
    }
  };
  const again = () => {
    for (const f of figures) {
      if (f.chart) f.chart.destroy();
      f.chart = null;
    }
    load();
  };
  dark.addEventListener("change", again);
  let resized;
  window.addEventListener("resize", () => {
    clearTimeout(resized);
    resized = setTimeout(again, 200);
  });
  load();
  setInterval(load, 10_000);
})();
