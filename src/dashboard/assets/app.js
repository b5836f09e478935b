'use strict';
// What pages have beyond what they are without scripts: figures that follow, from one stream, while they are seen.
(() => {
  let stream = null;

  const places = () => [...document.querySelectorAll('[data-queue]')];

  const show = (figures) => {
    for (const place of places()) {
      const row = figures[place.dataset.queue];
      if (!row) continue;
      for (const cell of place.querySelectorAll('[data-field]')) {
        const value = row[cell.dataset.field];
        if (typeof value === 'boolean') {
          cell.hidden = !value;
        } else if (value !== undefined && cell.textContent !== value) {
          cell.textContent = value;
          cell.classList.remove('changed');
          // Read, so that what follows begins anew.
          void cell.offsetWidth;
          cell.classList.add('changed');
        }
      }
    }
  };

  const close = () => {
    if (stream) stream.close();
    stream = null;
  };

  const open = () => {
    close();
    const names = [...new Set(places().map((place) => place.dataset.queue))];
    if (document.hidden || !names.length || !window.EventSource) return;
    const root = document.querySelector('.brand').getAttribute('href');
    const query = new URLSearchParams(names.map((name) => ['queue', name]));
    stream = new EventSource(`${root}/events?${query}`);
    stream.addEventListener('figures', (event) => show(JSON.parse(event.data)));
    stream.addEventListener('sample', (event) => {
      document.dispatchEvent(new CustomEvent('sample', { detail: JSON.parse(event.data) }));
    });
  };

  // Nobody is told of what nobody sees.
  document.addEventListener('visibilitychange', () => (document.hidden ? close() : open()));
  window.addEventListener('pagehide', close);
  window.addEventListener('pageshow', open);
  // Another part of the list is shown.
  document.addEventListener('htmx:afterSettle', open);
})();
