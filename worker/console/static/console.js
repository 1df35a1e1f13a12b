// Pages refresh themselves: the parts marked data-live are fetched again and put in place, when nobody is busy with them.
// What takes longer than the rest of its page is marked data-later, with the address of a page that has it.
"use strict";
(() => {
  const every = 5000;
  const parts = () => [...document.querySelectorAll("[data-live]")];
  const stamp = document.querySelector("[data-refreshed]");
  let at = Date.now();

  const busy = (part) =>
    part.contains(document.activeElement) || !getSelection().isCollapsed || part.querySelector("input:checked, details[open]");

  async function fetched(address) {
    const answer = await fetch(address, { headers: { "X-Refresh": "1" }, redirect: "error" });
    if (!answer.ok) throw new Error(answer.status);
    return new DOMParser().parseFromString(await answer.text(), "text/html");
  }

  async function complete() {
    const waiting = [...document.querySelectorAll("[data-later]")];
    for (const address of new Set(waiting.map((part) => part.dataset.later))) {
      const page = await fetched(address);
      for (const part of waiting.filter((one) => one.dataset.later === address)) {
        const next = page.getElementById(part.id);
        if (next) part.replaceWith(document.importNode(next, true));
      }
    }
  }

  async function refresh() {
    if (document.hidden || !parts().length) return;
    const fresh = await fetched(location.href);
    for (const part of parts()) {
      const next = fresh.getElementById(part.id);
      if (next && !busy(part) && next.innerHTML !== part.innerHTML) part.replaceWith(document.importNode(next, true));
    }
    at = Date.now();
  }

  function tell() {
    if (!stamp) return;
    const seconds = Math.round((Date.now() - at) / 1000);
    stamp.textContent = seconds < 12 ? `refreshed ${seconds} s ago` : `not refreshed for ${seconds} s`;
    stamp.classList.toggle("late", seconds >= 12);
  }

  complete().catch(() => {});
  setInterval(() => refresh().catch(() => {}), every);
  setInterval(tell, 1000);

  // The browser's own zone is the first that is offered.
  const zones = document.getElementById("zones");
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zones && own && ![...zones.options].some((option) => option.value === own)) zones.prepend(new Option("", own));

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-all]")) {
      for (const box of document.querySelectorAll(`input[name="${event.target.dataset.all}"]`)) box.checked = event.target.checked;
    }
  });
})();
