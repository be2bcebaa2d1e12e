// How well each class fits: a row with its name and a meter from 0 to 1.

export function meterRow(list, name) {
  const row = document.createElement("div"), meter = document.createElement("meter"), label = document.createElement("span");
  row.className = "fit", label.textContent = name;
  meter.max = 1;
  row.append(label, meter);
  list.append(row);
  return meter;
}
