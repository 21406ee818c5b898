// What does harm, in the demo only. The plain service offers none.

import { state } from './state.js';
import { element } from './svg.js';

const section = document.getElementById('harm');
const deeds = document.getElementById('deeds');
const status = document.getElementById('harm-status');

export function showButtons() {
  section.hidden = !state.buttons;
  document.body.classList.toggle('has-harm', Boolean(state.buttons));
  // Once: whoever is on a button stays there when the stream is taken up again.
  if (!state.buttons || deeds.dataset.of === state.buttons.token) return;
  deeds.dataset.of = state.buttons.token;
  deeds.replaceChildren(...state.buttons.deeds.map(row));
}

function row(deed) {
  const before = element('p', { id: `before-${deed.name}`, class: 'before' }, deed.before);
  const button = element('button', {
    type: 'button', id: `harm-${deed.name}`, class: deed.mends ? 'mends' : 'harms', 'aria-describedby': before.id,
  }, deed.title);
  button.addEventListener('click', () => press(deed, button));
  return element('li', {}, button, before);
}

async function press(deed, button) {
  // Not `disabled`, which would take the focus away.
  if (button.getAttribute('aria-disabled') === 'true') return;
  button.setAttribute('aria-disabled', 'true');
  status.className = 'harm-status';
  status.textContent = `${deed.title}: under way.`;
  try {
    const answer = await fetch(`/harm/${deed.name}`, {
      method: 'POST', headers: { 'x-harm-token': state.buttons.token },
    });
    const said = await answer.json();
    status.classList.toggle('failed', !answer.ok);
    status.textContent = answer.ok ? `${said.done} ${deed.after}` : `That did not work: ${said.error}`;
  } catch {
    status.classList.add('failed');
    status.textContent = 'The demo did not answer. It may have ended.';
  } finally {
    button.removeAttribute('aria-disabled');
  }
}
