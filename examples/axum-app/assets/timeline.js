// The lanes.

import { isGone, lanes, now, span, state, time } from './state.js';
import { draw, element, hue } from './svg.js';

const ROW = 44;
const BAR = 16;
const AXIS = 24;
const ROWS = 7;

export function is(lane) {
  switch (lane.stage) {
    case 'proving': return 'being tried';
    case 'current': if (isGone(lane)) return 'gone from Postgres';
      return lane.end < now() && lane.end != null ? 'in use, past its time' : 'in use';
    case 'draining':
      return lane.remaining == null ? 'being emptied' : `being emptied, ${lane.remaining} left`;
    case 'drained': return lane.remaining ? `${lane.remaining} left at its deadline` : 'empty';
    case 'unwanted': return 'not wanted any more, not revoked yet';
    case 'revoked': return 'revoked';
    default: return 'ended';
  }
}

export const name = (lane) => (lane.generation ? `No. ${lane.generation}` : 'New');

const svg = document.getElementById('timeline');
const text = document.getElementById('timeline-text');
const rows = document.getElementById('lanes');

export function drawTimeline() {
  const width = svg.clientWidth || 320;
  const { back, ahead } = span(width);
  const t = now();
  const x = (at) => ((at - t + back) / (back + ahead)) * width;
  const clip = (at) => Math.min(Math.max(x(at), 0), width);
  // The current one first, then what else is open, then the newest that has gone.
  const rank = (l) => (l.stage === 'current' ? 0 : l.over == null ? 1 : 2);
  const seen = lanes().filter((l) => (l.over ?? Infinity) > t - back)
    .sort((a, b) => rank(a) - rank(b) || b.id - a.id).slice(0, ROWS).sort((a, b) => b.id - a.id);
  const height = AXIS + ROW * Math.max(seen.length, 4);
  const shapes = axis(width, height, back, ahead);
  for (const e of state.entries) {
    if (e.kind === 'harm' && e.at > t - back) {
      shapes.push(['line', { class: 'harm-line', x1: x(e.at), x2: x(e.at), y1: AXIS, y2: height }]);
    }
  }
  seen.forEach((lane, i) => shapes.push(...lay(lane, AXIS + i * ROW, width, t, clip)));
  shapes.push(['line', { class: 'now-line', x1: x(t), x2: x(t), y1: AXIS - 6, y2: height }]);
  draw(svg, width, height, shapes);
}

function axis(width, height, back, ahead) {
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];
  const least = ((back + ahead) / width) * 72;
  const step = steps.find((s) => s >= least) ?? 3600;
  const shapes = [];
  for (let at = -Math.floor(back / step) * step; at <= ahead; at += step) {
    const x = ((at + back) / (back + ahead)) * width;
    const label = at === 0 ? 'now' : `${at > 0 ? '+' : '−'}${short(Math.abs(at))}`;
    shapes.push(['line', { class: 'grid-line', x1: x, x2: x, y1: AXIS - 4, y2: height }]);
    const anchor = x < 20 ? 'start' : x > width - 26 ? 'end' : 'middle';
    shapes.push(['text', { class: at === 0 ? 'tick strong' : 'tick', x, y: 13, 'text-anchor': anchor }, label]);
  }
  return shapes;
}

const short = (s) => (s < 120 ? `${s} s` : s < 5400 ? `${s / 60} min` : `${s / 3600} h`);

function lay(lane, top, width, t, x) {
  const y = top + 22;
  const over = lane.over ?? t;
  const colour = hue(lane.generation);
  const shapes = [];
  const bar = (from, to, kind) => {
    const [a, b] = [x(from), x(to)];
    if (b <= 0 || b <= a) return;
    // A step of milliseconds is seen too.
    const attributes = { class: `${kind} ${colour}`, x: a, y, width: Math.max(b - a, 3), height: BAR, rx: 2 };
    shapes.push(['rect', attributes]);
  };
  if (!lane.over && lane.end > t) {
    bar(t, lane.end, 'bar-lease');
    shapes.push(['line', { class: `lease-end ${colour}`, x1: x(lane.end), x2: x(lane.end), y1: y - 3, y2: y + BAR + 3 }]);
    // At its max TTL: no renewal moves that end.
    if (lane.last_renewal && lane.stage === 'current') {
      shapes.push(['text', { class: 'tick', x: x(t) + 5, y: y - 7 }, 'last renewal']);
    }
  }
  bar(lane.issued, lane.current ?? over, 'bar-proving');
  if (lane.current != null) {
    const until = lane.superseded ?? over;
    const good = Math.min(until, lane.end ?? until, lane.broken ?? until);
    bar(lane.current, good, 'bar-current');
    if (good < until) bar(good, until, 'bar-past');
  }
  if (lane.superseded != null) {
    bar(lane.superseded, lane.drained ?? over, 'bar-draining');
    if (lane.drained != null) bar(lane.drained, over, 'bar-proving');
  }
  for (const at of lane.renewals) {
    if (x(at) > 0) shapes.push(['circle', { class: 'renewal', cx: x(at), cy: y + BAR / 2, r: 4 }]);
  }
  if (lane.broken != null && x(lane.broken) > 0) {
    shapes.push(['path', { class: 'broken', d: diamond(x(lane.broken), y + BAR / 2, 7) }]);
  }
  if (lane.over != null && x(lane.over) > 0) {
    shapes.push(['path', { class: `over ${colour}`, d: cross(x(lane.over) + 9, y + BAR / 2, 4.5) }]);
  }
  const label = `${name(lane)} ${is(lane)}`;
  shapes.push(['text', { class: 'lane-name', x: 0, y: y - 6 }, label]);
  // About as wide as the letters are; not measured, which would lay the page out each time.
  const from = label.length * 7.7 + 14;
  const user = shorten(lane.username, Math.floor((Math.min(width, x(t) || width) - from) / 6.7));
  if (user) shapes.push(['text', { class: 'lane-user', x: from, y: y - 6 }, user]);
  return shapes;
}

/** The beginning and the end of a user name, which tell one from another. */
function shorten(text, room) {
  if (text.length <= room) return text;
  return room < 14 ? '' : `${text.slice(0, room - 7)}…${text.slice(-6)}`;
}

const cross = (x, y, r) => `M${x - r} ${y - r}L${x + r} ${y + r}M${x - r} ${y + r}L${x + r} ${y - r}`;
const diamond = (x, y, r) => `M${x} ${y - r}L${x + r} ${y}L${x} ${y + r}L${x - r} ${y}Z`;

/** The same as text: a sentence and a table. Called when a lane changes, not for each picture. */
export function tellLanes() {
  const all = lanes();
  const by = (stage) => all.filter((l) => l.stage === stage);
  const parts = ['current', 'proving', 'draining', 'drained', 'unwanted'].flatMap(by)
    .map((l) => `${name(l)} is ${is(l)}`);
  const gone = all.filter((l) => l.over != null).length;
  if (gone) parts.push(`of the last ${all.length} logins, ${gone} ${gone === 1 ? 'is' : 'are'} gone`);
  text.textContent = parts.length ? `${parts.join('; ')}.` : '';
  const at = (v) => (v == null ? '' : time(v));
  rows.replaceChildren(...all.map((l) => element('tr', { 'data-generation': l.generation ?? '', 'data-stage': l.stage },
    ...[l.generation ?? '', l.username, is(l), at(l.issued), at(l.current), String(l.renewals.length), at(l.end), at(l.over)]
      .map((cell) => element('td', {}, String(cell))))));
}
