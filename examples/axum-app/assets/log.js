// What happened, line by line, the newest first.

import { state } from './state.js';
import { element } from './svg.js';

const SHOWN = 80;
const SMALL = new Set(['settled', 'rolled', 'draining']);

const list = document.getElementById('log');
const small = document.getElementById('small-steps');

const wanted = (entry) => small.checked || !SMALL.has(entry.kind);

function line(entry) {
  return element('li', { class: entry.tone, value: entry.number, 'data-kind': entry.kind },
    element('time', {}, `${entry.at.toFixed(1)} s`),
    element('p', { class: 'words' }, entry.words),
    element('p', { class: 'means' }, entry.means));
}

/** All anew: after a reconnect, or when what is wanted has changed. */
export function tellAll() {
  list.replaceChildren(...state.entries.filter(wanted).slice(-SHOWN).reverse().map(line));
}

export function tellOne(entry) {
  if (!wanted(entry)) return;
  list.prepend(line(entry));
  while (list.children.length > SHOWN) list.lastChild.remove();
}

small.addEventListener('change', tellAll);
