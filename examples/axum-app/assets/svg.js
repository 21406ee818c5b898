// Drawing: a list of shapes becomes the children of an <svg>, which are kept and changed.

const NS = 'http://www.w3.org/2000/svg';

/** Draws `shapes`, each `[tag, attributes, text]`, in this order. */
export function draw(svg, width, height, shapes) {
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  svg.style.height = `${height}px`;
  shapes.forEach(([tag, attributes, text], i) => {
    let node = svg.childNodes[i];
    if (!node || node.nodeName !== tag) {
      const fresh = document.createElementNS(NS, tag);
      if (node) svg.replaceChild(fresh, node); else svg.appendChild(fresh);
      node = fresh;
    }
    for (const name of node.getAttributeNames()) {
      if (!(name in attributes)) node.removeAttribute(name);
    }
    for (const [name, value] of Object.entries(attributes)) {
      const written = typeof value === 'number' ? String(Math.round(value * 10) / 10) : value;
      if (node.getAttribute(name) !== written) node.setAttribute(name, written);
    }
    if (node.textContent !== (text ?? '')) node.textContent = text ?? '';
  });
  while (svg.childNodes.length > shapes.length) svg.lastChild.remove();
}

/** Each login has one of four colours, the same in every picture. */
export const hue = (generation) => `hue-${(generation ?? 0) % 4}`;

/** An HTML element. */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
