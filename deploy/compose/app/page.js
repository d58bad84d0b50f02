// Asks for the rows twice a second and puts them into the table, as text.
"use strict";
const rows = document.getElementById("rows");
const state = document.getElementById("state");

function cell(text, name) {
  const td = document.createElement("td");
  td.textContent = text;
  if (name) td.className = name;
  return td;
}

function line(key) {
  const tr = document.createElement("tr");
  tr.className = key.answer;
  const answer = document.createElement("td");
  answer.append(Object.assign(document.createElement("b"), { textContent: key.answer }));
  tr.append(cell(key.key_id), answer, cell(key.code), cell(key.age_ms, "number"), cell(key.source));
  return tr;
}

async function refresh() {
  try {
    const answer = await fetch("/keys.json", { signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(answer.status);
    rows.replaceChildren(...(await answer.json()).keys.map(line));
    state.textContent = "";
  } catch {
    state.textContent = "The application does not answer; what you see is old.";
  }
  setTimeout(refresh, 500);
}
refresh();
