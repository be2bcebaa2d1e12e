// A page begins, or says why it cannot.

export function start(begin) {
  const find = (id) => document.getElementById(id);
  begin()
    .catch((error) => {
      find("notice").textContent = error.message;
      find("notice").hidden = false;
      find("main").hidden = true;
      console.error(error);
    })
    .finally(() => find("main").setAttribute("aria-busy", "false"));
}
