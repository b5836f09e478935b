'use strict';
// The charts of a queue's last hour, which are drawings where there are no scripts.
(() => {
  const COLUMNS = { depth: [1, 2], rates: [3, 4] };
  const TITLES = { depth: ['waiting', 'in flight'], rates: ['sent', 'done'] };
  const KEPT = 3600;
  // So much is shown at least: what a gateway saw since it started, a minute ago, is no mere stroke then.
  const LEAST = 300;

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const clock = (seconds) => {
    const moment = new Date(seconds * 1000);
    return [moment.getHours(), moment.getMinutes()].map((part) => String(part).padStart(2, '0')).join(':');
  };

  const start = async () => {
    const place = document.querySelector('[data-history]');
    if (!place || !window.uPlot) return;
    const answer = await fetch(place.dataset.history);
    if (!answer.ok) return;
    const samples = await answer.json();
    const charts = [];

    const data = (kind) => [0, ...COLUMNS[kind]].map((column) => samples.map((sample) => sample[column]));

    const draw = () => {
      for (const { chart } of charts.splice(0)) chart.destroy();
      for (const figure of place.querySelectorAll('[data-chart]')) {
        const kind = figure.dataset.chart;
        const plot = figure.querySelector('.plot');
        const lines = [colour('--first'), colour('--second')];
        const axis = {
          stroke: colour('--faint'),
          grid: { stroke: colour('--line'), width: 1 },
          ticks: { show: false },
        };
        const options = {
          width: plot.clientWidth,
          height: plot.clientHeight,
          legend: { show: false },
          cursor: { y: false, drag: { x: false, y: false } },
          scales: { x: { range: (_, first, last) => [Math.max(last - KEPT, Math.min(first, last - LEAST)), last] }, y: { range: (_, least, most) => [0, Math.max(most || 0, 1) * 1.05] } },
          series: [
            {},
            ...lines.map((stroke, at) => ({ label: TITLES[kind][at], stroke, width: 1.5, points: { show: false } })),
          ],
          axes: [{ ...axis, size: 28, values: (_, moments) => moments.map(clock) }, { ...axis, size: 48 }],
        };
        plot.replaceChildren();
        plot.setAttribute('role', 'img');
        plot.setAttribute('aria-label', `${figure.querySelector('figcaption').firstChild.textContent.trim()} in the last hour`);
        charts.push({ kind, plot, chart: new window.uPlot(options, data(kind), plot) });
      }
    };

    if (samples.length > 1) draw();
    document.addEventListener('sample', ({ detail }) => {
      samples.push(detail);
      while (samples.length && samples[0][0] < detail[0] - KEPT) samples.shift();
      if (samples.length < 2) return;
      if (!charts.length) draw();
      for (const { kind, chart } of charts) chart.setData(data(kind));
    });
    const resize = () => {
      for (const { plot, chart } of charts) chart.setSize({ width: plot.clientWidth, height: plot.clientHeight });
    };
    window.addEventListener('resize', resize);
    window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => samples.length > 1 && draw());
  };

  start();
})();
