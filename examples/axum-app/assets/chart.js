// The three charts and their table.

import { lanes, latest, now, span, state } from './state.js';
import { draw, element, hue } from './svg.js';

const HEIGHT = 180;
const [TOP, BOTTOM, LEFT] = [8, 18, 34];
const LOWEST_MS = 0.5;

const $ = (id) => document.getElementById(id);

/** What a chart has in common with the others: the instants and the marks in it. */
function frame(svg) {
  const width = svg.clientWidth || 300;
  const back = Math.min(span(window.innerWidth).back, 290);
  const t = now();
  const x = (at) => LEFT + ((at - t + back) / back) * (width - LEFT);
  const [shapes, marks] = [[], []];
  for (const lane of lanes()) {
    if (lane.current > t - back && lane.reason !== 'start') marks.push(mark('swap-line', x(lane.current)));
  }
  for (const e of state.entries) {
    if (e.kind === 'harm' && e.at > t - back) marks.push(mark('harm-line', x(e.at)));
  }
  const text = (label, at, anchor) => ['text', { class: 'tick', x: at, y: HEIGHT - 4, 'text-anchor': anchor }, label];
  shapes.push(text(`−${Math.round(back)} s`, LEFT, 'start'), text('now', width, 'end'));
  // One before the window as well, so that lines begin at its edge.
  const first = state.samples.findIndex((s) => s.at > t - back);
  const samples = first < 0 ? [] : state.samples.slice(Math.max(first - 1, 0)).filter((s) => s.at <= t);
  return { width, x: (at) => Math.max(x(at), LEFT), samples, shapes, marks };
}

const mark = (kind, x) => ['line', { class: kind, x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }];

/** From 0 to a round number above `most`, with a line for the middle and the top. */
function scale(most, shapes, width) {
  const power = 10 ** Math.floor(Math.log10(Math.max(most, 1)));
  const top = [1, 2, 4, 6, 8, 10].map((n) => n * power).find((n) => n >= most) ?? most;
  const y = (value) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - TOP - BOTTOM);
  for (const value of top >= 2 ? [0, top / 2, top] : [0, top]) shapes.push(...level(value, y(value), width));
  return y;
}

const level = (label, y, width) => [
  ['line', { class: 'grid-line', x1: LEFT, x2: width, y1: y, y2: y }],
  ['text', { class: 'tick', x: LEFT - 6, y: y + 4, 'text-anchor': 'end' }, String(label)],
];

const path = (points) => points.map(([x, y], i) => `${i ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`).join('');

function connections() {
  const svg = $('connections');
  const { width, x, samples, shapes, marks } = frame(svg);
  const counted = samples.filter((s) => s.connections);
  const total = (s) => Object.values(s.connections).reduce((a, b) => a + b, 0);
  const y = scale(Math.max(4, ...counted.map(total)), shapes, width);
  const generations = [...new Set(counted.flatMap((s) => Object.keys(s.connections).map(Number)))].sort((a, b) => a - b);
  const floor = counted.map(() => 0);
  for (const g of generations) {
    const low = counted.map((s, i) => [x(s.at), y(floor[i])]);
    counted.forEach((s, i) => { floor[i] += s.connections[g] ?? 0; });
    const high = counted.map((s, i) => [x(s.at), y(floor[i])]);
    if (high.length > 1) shapes.push(['path', { class: `area ${hue(g)}`, d: `${path([...high, ...low.reverse()])}Z` }]);
  }
  draw(svg, width, HEIGHT, [...shapes, ...marks]);
}

/** A sample's share of a second: they are half a second apart, or more on a busy machine. */
const per = (samples, i) => (i ? Math.max(samples[i].at - samples[i - 1].at, 0.1) : 0.5);

function rate() {
  const svg = $('rate');
  const { width, x, samples, shapes, marks } = frame(svg);
  const rates = samples.map((s, i) => (s.ok + s.failed) / per(samples, i));
  const y = scale(Math.max(4, ...rates), shapes, width);
  const points = samples.map((s, i) => [x(s.at), y(rates[i])]);
  if (points.length > 1) {
    const base = y(0);
    shapes.push(['path', { class: 'fill', d: `${path([[points[0][0], base], ...points, [points[points.length - 1][0], base]])}Z` }]);
    shapes.push(['path', { class: 'stroke', d: path(points) }]);
  }
  samples.forEach((s, i) => {
    if (s.failed) shapes.push(['line', { class: 'failed', x1: x(s.at), x2: x(s.at), y1: y(0), y2: Math.min(y(s.failed / per(samples, i)), y(0) - 6) }]);
  });
  draw(svg, width, HEIGHT, [...shapes, ...marks]);
}

function latency() {
  const svg = $('latency');
  const { width, x, samples, shapes, marks } = frame(svg);
  const asked = samples.filter((s) => s.max_ms != null);
  const most = Math.max(10, ...asked.map((s) => s.max_ms));
  const top = 10 ** Math.ceil(Math.log10(most));
  const room = HEIGHT - TOP - BOTTOM;
  const y = (ms) => HEIGHT - BOTTOM - (Math.log10(Math.max(ms, LOWEST_MS) / LOWEST_MS) / Math.log10(top / LOWEST_MS)) * room;
  for (let ms = 1; ms <= top; ms *= 10) shapes.push(...level(ms >= 1000 ? `${ms / 1000} s` : `${ms}`, y(ms), width));
  const line = (kind, value) => {
    if (asked.length > 1) shapes.push(['path', { class: kind, d: path(asked.map((s) => [x(s.at), y(value(s))])) }]);
  };
  for (const s of asked) shapes.push(['circle', { class: 'slowest', cx: x(s.at), cy: y(s.max_ms), r: 1.6 }]);
  line('stroke faint', (s) => s.p99_ms);
  line('stroke', (s) => s.p50_ms);
  draw(svg, width, HEIGHT, [...shapes, ...marks]);
}

export function drawCharts() {
  connections();
  rate();
  latency();
}

const ms = (v) => (v == null ? '–' : `${v < 10 ? v.toFixed(1) : Math.round(v)} ms`);
const ofLogins = (counts) => Object.entries(counts ?? {}).filter(([, n]) => n > 0).map(([g, n]) => `${n} of no. ${g}`).join(', ');

/** The same as text. Called with each sample. */
export function tellCharts() {
  const s = latest();
  if (!s) return;
  const since = state.samples.filter((one) => one.at > s.at - 5);
  const sum = (of) => since.reduce((all, one) => all + of(one), 0);
  const most = (of) => Math.max(...since.map((one) => of(one) ?? 0));
  $('connections-text').textContent = s.connections ? `Now ${ofLogins(s.connections) || 'none'}, as Postgres counts them.` : 'Postgres can’t be asked just now.';
  $('rate-text').textContent = `In the last 5 s: ${sum((o) => o.ok)} answered, ${sum((o) => o.failed)} failed (red).`;
  $('latency-text').textContent = `Milliseconds, each line ten times the one below. Half within ${ms(s.p50_ms)} (strong), 99 of 100 within ${ms(s.p99_ms)} (faint); slowest in 5 s: ${ms(most((o) => o.max_ms))} (dots).`;
  if (!$('samples').closest('details').open) return;
  $('samples').replaceChildren(...state.samples.slice(-20).reverse().map((one) => element('tr', {},
    ...[(s.at - one.at).toFixed(1), one.ok + one.failed, one.failed, ms(one.p50_ms), ms(one.p99_ms), ms(one.max_ms), ofLogins(one.connections)]
      .map((cell) => element('td', {}, String(cell))))));
}
